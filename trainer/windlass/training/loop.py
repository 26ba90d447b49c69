"""The training loop, from the first step or a checkpoint to the last step, a stop or an error."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from windlass.data.stream import Batch, Stream
from windlass.errors import WindlassError
from windlass.planning.choices import Strategy
from windlass.spec.job import Checkpoints, JobSpec
from windlass.storage import shown
from windlass.training.checkpoint import Checkpointer, Saved
from windlass.training.commits import Commit, CommitLog
from windlass.training.hang import HangWatch
from windlass.training.loss_scale import LossScale
from windlass.training.measure import Loss, Measurement, count_labels, count_tokens, to_device
from windlass.training.optimizer import set_learning_rate
from windlass.training.parallel import accumulate, autocast, clip_gradients
from windlass.training.ranks import Ranks
from windlass.training.recorder import Recorder
from windlass.training.schedule import learning_rate
from windlass.training.timing import StepTimer

NON_FINITE_TRIES = 10
"""Steps with a NaN or infinite loss that a run leaves out before it fails."""


@dataclass
class TrainingRun:
    """All that the loop needs, made by `windlass.engine.train_function`."""

    spec: JobSpec
    ranks: Ranks
    model: nn.Module
    initialise: Callable[[], None]
    """Set the model's weights to those of a run that starts."""
    loss: Loss
    optimizer: torch.optim.Optimizer
    strategy: Strategy
    precision: str
    total_steps: int
    stream: Callable[[int], Stream[list[Batch]]]
    """This rank's micro batches, from a number of samples consumed by all ranks."""
    inputs: dict[str, Any]
    """What is trained on what (run, seed, corpora, model, ...): a checkpoint of anything else is refused."""
    measurements: Sequence[Measurement]
    log: CommitLog
    recorder: Recorder
    hang_watch: HangWatch
    stop_requested: Callable[[], bool]
    notify: Callable[[str, str], None]
    """Tell people: a kind (info, warning) and a sentence."""
    writer: dict[str, Any] = field(default_factory=dict)
    """Who this is, for the attempt's record."""
    metrics: Sequence[str] = ()
    """Names of what the loss gives after itself, for the records of steps."""
    flops_per_token: float = 0.0
    peak_flops: float | None = None
    """Of one device; None where it is not known."""


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended."""

    step: int
    stopped: bool
    """True when it was asked to stop before its last step."""
    attempt: int


class NonFiniteLoss(Exception):
    """The loss or the gradient norm of a step is NaN or infinite."""

    def __init__(self, step: int) -> None:
        super().__init__(f"The loss or the gradient norm is not finite at step {step}")
        self.step = step


def train(run: TrainingRun) -> Outcome:
    """Train until the last step or a stop; with onNonFiniteLoss: RollBack, from the last checkpoint as often as needed.

    All ranks call it together. Raises WindlassError (NonFiniteLoss, CheckpointCorrupt, StorageFull, ...).
    """
    policy = run.spec.lifecycle.on_non_finite_loss
    left_out: set[int] = set()
    checkpointer = Checkpointer(run.log, run.model, run.optimizer, run.ranks, run.spec.checkpoints.keep)
    with closing(checkpointer):
        while True:
            try:
                return _attempt(run, checkpointer, left_out)
            except NonFiniteLoss as error:
                if policy != "RollBack" or len(left_out) >= NON_FINITE_TRIES:
                    raise WindlassError(
                        "NonFiniteLoss",
                        f"{error}, with {len(left_out)} steps left out before (onNonFiniteLoss: {policy}). "
                        "Lower training.optimizer.learningRate, or use precision BF16 or FP32.",
                    ) from error
                run.notify("warning", f"{error}: back to the last checkpoint, leaving that step out")
                left_out.add(error.step)
                checkpointer.wait()


def _attempt(run: TrainingRun, checkpointer: Checkpointer, left_out: set[int]) -> Outcome:
    training, ranks = run.spec.training, run.ranks
    scale = LossScale.for_precision(run.precision)
    start = tokens = 0
    run.optimizer.zero_grad(set_to_none=True)  # a step that went wrong leaves its gradients
    restored = checkpointer.restore(partial(_check_inputs, run), partial(run.notify, "warning"))
    if restored is None:
        run.initialise()
        run.optimizer.state.clear()
    else:
        commit = restored.commit
        start, tokens = commit.step, commit.state["tokens"]
        scale = LossScale(**commit.state["loss_scale"])
        left_out |= set(commit.state["left_out"])
    attempt = checkpointer.begin_attempt(start, run.writer)
    run.recorder.begin(restored.metrics if restored else b"")
    if restored:
        run.notify("info", f"Continuing from the checkpoint of step {start}, attempt {attempt.number}")

    def save(step: int) -> None:
        state = {
            "samples": step * training.global_batch_size,
            "tokens": tokens,
            "loss_scale": asdict(scale),
            "left_out": sorted(left_out),
            "inputs": run.inputs,
            "world_size": ranks.world_size,
        }
        checkpointer.save(step, state, run.recorder.content())

    timer = StepTimer()
    save_clock = SaveClock(run.spec.checkpoints, start)
    step, stopped = start, False
    if start == 0:
        _measure(run, 0, timer)
    with closing(run.hang_watch), closing(run.stream(start * training.global_batch_size)) as stream:
        while step < run.total_steps:
            run.hang_watch.alive()
            with timer.part("data"):
                micro_batches = next(stream)
            step_labels, step_tokens, stops, overdue, busy = ranks.sum(
                count_labels(micro_batches),
                count_tokens(micro_batches),
                run.stop_requested(),
                save_clock.overdue(),
                checkpointer.busy,
            )
            if stops:
                stopped = True
                break
            step += 1
            rate = learning_rate(training.schedule, training.optimizer.learning_rate, step, run.total_steps)
            set_learning_rate(run.optimizer, rate)
            seed_dropout(training.seed, step, ranks)

            if step not in left_out:
                with timer.part("forward_backward"):
                    summed = _forward_backward(run, micro_batches, scale.factor * ranks.world_size / step_labels)
                    clipped = clip_gradients(run.model, training.optimizer.gradient_clip, scale.factor)
                    *sums, norm = torch.cat([summed, clipped[None]]).tolist()  # a step waits for its GPU here alone
                with timer.part("optimizer"):
                    finite = math.isfinite(norm)
                    if finite:
                        run.optimizer.step()
                    elif scale.factor == 1.0:
                        _leave_out(run, step, left_out)
                    scale.update(finite)
                    run.optimizer.zero_grad(set_to_none=True)
                tokens += int(step_tokens)
            timer.step_done()

            if step not in left_out and (step % run.spec.logging.every_steps == 0 or step == run.total_steps):
                means = [_finite(total / step_labels) for total in ranks.sum(*sums)]
                seconds = timer.read()
                record = {
                    "kind": "train",
                    "step": step,
                    **dict(zip(("loss", *run.metrics), means, strict=True)),
                    "learning_rate": rate,
                    "gradient_norm": _finite(norm),
                    "tokens": tokens,
                    "epoch": round(step * training.global_batch_size / stream.samples_per_epoch, 6),
                    **_speed(run, step_tokens / seconds["total"]),
                    "step_seconds": seconds,
                    "stream": stream.counts(),
                }
                run.recorder.write(record)
            _measure(run, step, timer)

            with timer.part("checkpoint"):
                _note_saved(run, checkpointer.finished())
                if save_clock.due(step, overdue > 0) and not busy and step < run.total_steps:
                    save(step)
                    save_clock.saved(step)
        if step > save_clock.last_step:
            _note_saved(run, checkpointer.wait())
            save(step)
        _note_saved(run, checkpointer.wait())
    return Outcome(step=step, stopped=stopped, attempt=attempt.number)


def _forward_backward(run: TrainingRun, micro_batches: Sequence[Batch], factor: float) -> torch.Tensor:
    """Gradients of the step's loss; returns what this rank sums, [1 + metrics]: the loss and after it run.metrics.

    DDP and FSDP average gradients over ranks, so with `factor` = world size / labels of all ranks every label weighs
    the same, on whichever rank and in whichever micro batch it is.
    """
    total = torch.zeros(1 + len(run.metrics), device=run.ranks.device)
    for index, batch in enumerate(micro_batches):
        inputs, documents, targets = to_device(batch, run.ranks.device)
        with accumulate(run.model, last=index == len(micro_batches) - 1):
            with autocast(run.strategy, run.precision, run.ranks.device):
                sums = run.model(inputs, documents=documents, head=partial(run.loss, **targets)).reshape(-1)
            (sums[0] * factor).backward()
        total += sums.detach()
    for parameter in run.model.parameters():
        if parameter.requires_grad and parameter.grad is None:  # the loss depends on it nowhere; its moments are saved
            parameter.grad = torch.zeros_like(parameter)
    return total


def seed_dropout(seed: int, step: int, ranks: Ranks) -> None:
    """Random numbers of this step and rank depend on nothing that was drawn before, so a resume has none to restore."""
    torch.manual_seed(((seed * 1_000_003 + step) * 65_537 + ranks.rank) % 2**64)


def _leave_out(run: TrainingRun, step: int, left_out: set[int]) -> None:
    """A step whose gradients are not finite takes no part in training. Raises NonFiniteLoss where that isn't wanted."""
    if run.spec.lifecycle.on_non_finite_loss != "Skip" or len(left_out) >= NON_FINITE_TRIES:
        raise NonFiniteLoss(step)
    left_out.add(step)
    run.notify("warning", f"The loss or the gradient norm is not finite at step {step}: leaving that step out")


def _finite(number: float) -> float | None:
    """The number, or None for the NaN or infinity of a step whose loss FP16 scaled too high: JSON has neither."""
    return number if math.isfinite(number) else None


def _speed(run: TrainingRun, tokens_per_second: float) -> dict[str, float | None]:
    """Tokens per second of all ranks, and the share of the devices' peak FLOPs that the model uses (MFU)."""
    mfu = None
    if run.peak_flops is not None:
        mfu = round(run.flops_per_token * tokens_per_second / (run.peak_flops * run.ranks.world_size), 4)
    return {"tokens_per_second": round(tokens_per_second, 1), "mfu": mfu}


def _measure(run: TrainingRun, step: int, timer: StepTimer) -> None:
    with timer.outside():
        for measurement in run.measurements:
            if measurement.due(step):
                for record in measurement(run.model, step):
                    run.recorder.write(record)


def _note_saved(run: TrainingRun, saved: Saved | None) -> None:
    if saved is not None:
        run.recorder.write({"kind": "checkpoint", **asdict(saved)})


def _check_inputs(run: TrainingRun, commit: Commit) -> None:
    """Refuse to continue another run, or on other data than the checkpoint was trained on."""
    for name, before in commit.state["inputs"].items():
        now = run.inputs.get(name)
        if before is not None and now != before:  # None: older checkpoints have it for a default left out
            raise WindlassError(
                "ConfigInvalid",
                f"The {name} has changed since the checkpoint of step {commit.step} in {shown(run.log.storage.uri)}: "
                f"it was {before}, now it is {now}. Put the old one back, start over with --restart, or give the run "
                "another --name and checkpoints.uri.",
            )


class SaveClock:
    """When the next checkpoint is due."""

    def __init__(self, spec: Checkpoints, last_step: int) -> None:
        self._spec = spec
        self.last_step = last_step
        self._saved_at = time.monotonic()

    def overdue(self) -> bool:
        """Whether everyMinutes have passed, on this rank's clock."""
        minutes = self._spec.every_minutes
        return minutes is not None and time.monotonic() - self._saved_at > 60 * minutes

    def due(self, step: int, overdue: bool) -> bool:
        """Whether a multiple of everySteps has been reached since the last save, which may have had to wait."""
        every = self._spec.every_steps
        return overdue or (every is not None and step // every > self.last_step // every)

    def saved(self, step: int) -> None:
        self.last_step, self._saved_at = step, time.monotonic()
