"""What training reaches on a GPU: tokens/s and MFU of the real loop, beside a plain loop and transformers, in one run.

    python benchmarks/gpu_training.py --preset gpt2-small --batch 512 --micro-batch 64
    python benchmarks/gpu_training.py --preset llama-1b --sequence-length 4096 --batch 32 --micro-batch 4

Windlass trains with all on that a run has: the verified stream, a line of metrics a step, Prometheus, an asynchronous
checkpoint in the middle. Between its turns of some steps its peers have theirs, in the same process: the shortest plain
PyTorch loop (the same model compiled whole, its loss included, on random windows of an array in memory), and
transformers' model of the same shape. All have the same batch, micro-batch, precision, optimizer and clipping. The
first turn compiles and does not count; medians of the others are printed. MFU is by `windlass.planning.compute`.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from windlass.data.corpus import Corpus
from windlass.data.tokenizers import load_tokenizer
from windlass.engine import train_function
from windlass.engine.machine import this_machine
from windlass.engine.preparation import prepare_run
from windlass.engine.rank_settings import RankSettings
from windlass.engine.run_folder import RunFolder, read_lines
from windlass.models.decoder import Decoder
from windlass.models.families import write_config
from windlass.planning.peaks import peak_flops
from windlass.planning.plan import in_units
from windlass.spec.job import LLMTrainingJob
from windlass.spec.presets import ModelConfig, model_config
from windlass.training.ranks import single_process

DTYPES = {"BF16": torch.bfloat16}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--preset", default="gpt2-small")
    options.add_argument("--sequence-length", type=int, default=1024)
    options.add_argument("--batch", type=int, default=512, help="sequences a step")
    options.add_argument("--micro-batch", type=int, default=64)
    options.add_argument("--turns", type=int, default=6, help="of each; the first does not count")
    options.add_argument("--steps", type=int, default=3, help="in a turn")
    options.add_argument("--tokenizer", help="by default the preset's")
    options.add_argument("--precision", default="Auto", choices=["Auto", "BF16", "FP32"])
    options.add_argument("--eager", action="store_true", help="without torch.compile")
    options.add_argument("--alone", action="store_true", help="without the peers")
    options.add_argument("--profile", action="store_true", help="print where the GPU's time went in the last turn")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(chosen, RunFolder(Path(folder) / "runs" / "gpu"))


def compare(chosen: argparse.Namespace, run: RunFolder) -> None:
    """Train a run in which the peers have their turns where others measure; print a table."""
    run.path.mkdir(parents=True)
    settings = prepare_run(job(chosen), run, this_machine(), 1, lambda message: None)
    device = torch.device(settings.plan.device)
    turns = Turns(chosen, settings, device)
    train_function._measurements = lambda *_: [turns]
    train_function.train_rank(settings, single_process(device))

    show(chosen, settings, turns)
    for line in read_lines(run.metrics):
        if line["kind"] == "checkpoint" and line["step"] < settings.total_steps:
            print(f"checkpoint: {line['seconds']:.2f} s, of which training waited {line['blocked_seconds']:.3f} s")
    last = [line for line in read_lines(run.metrics) if line["kind"] == "train"][-1]
    print(f"last step: loss {last['loss']:.4f}, mfu {last['mfu']}, {last['step_seconds']}")


def show(chosen: argparse.Namespace, settings: RankSettings, turns: "Turns") -> None:
    """Print the settings, a row for each competitor, and ratios turn by turn."""
    plan, tokens = settings.plan, chosen.batch * chosen.sequence_length
    device = torch.cuda.get_device_name() if plan.device == "cuda" else "CPU"
    peak = peak_flops(device, plan.precision)
    how = "eager" if chosen.eager else "compiled"
    print(f"{device}, torch {torch.__version__}, transformers {transformers.__version__}, {plan.precision}, {how}")
    print(f"{chosen.preset}: {plan.parameters:,} parameters, {plan.flops_per_token / 1e9:.3f} GFLOPs a token")
    print(f"{tokens:,} tokens a step: {chosen.batch} sequences of {chosen.sequence_length}, by {chosen.micro_batch}")
    print(f"memory planned: {in_units(plan.memory.total)}; ratio: Windlass's tokens/s over theirs, the turns' median")
    print(
        f"{'':>12} {'tokens/s':>10} {'MFU':>6} {'ms/step':>9} {'fastest':>9} {'slowest':>9} {'peak':>10} {'ratio':>6}"
    )
    for name, seconds in turns.seconds.items():
        steps = [1000 * turn / chosen.steps for turn in seconds[1:]]
        speed = 1000 * tokens / statistics.median(steps)
        mfu = f"{speed * plan.flops_per_token / peak:.3f}" if peak else "-"
        memory = in_units(turns.memory[name]) if name in turns.memory else "-"
        ratio = statistics.median(t / w for t, w in zip(seconds[1:], turns.seconds["Windlass"][1:], strict=True))
        print(f"{name:>12} {speed:>10,.0f} {mfu:>6} {statistics.median(steps):>9.1f} {min(steps):>9.1f} ", end="")
        print(f"{max(steps):>9.1f} {memory:>10} {ratio:>6.3f}")


def job(chosen: argparse.Namespace) -> LLMTrainingJob:
    """A run of as many steps as all turns have, with a checkpoint in the middle."""
    steps = chosen.turns * chosen.steps
    return LLMTrainingJob.model_validate(
        {
            "metadata": {"name": "gpu"},
            "spec": {
                "model": {"preset": chosen.preset},
                "tokenizer": chosen.tokenizer,
                "data": {
                    "prepare": {"sources": [{"uri": "python://stdlib"}]},
                    "sequenceLength": chosen.sequence_length,
                },
                "training": {
                    "maxSteps": steps,
                    "globalBatchSize": chosen.batch,
                    "microBatchSize": chosen.micro_batch,
                    "precision": chosen.precision,
                    "parallelism": {"compile": not chosen.eager},
                    "schedule": {"name": "Constant"},
                },
                "checkpoints": {"everySteps": steps // 2 + 1},
                "evaluation": {"baseline": "None"},
            },
        }
    )


Loss = Callable[[Tensor, Tensor], Tensor]
"""Mean loss of inputs and labels, each [batch, sequence]."""


@dataclass
class Turns:
    """Takes the time of Windlass's turn that has just ended, then gives each peer its own."""

    chosen: argparse.Namespace
    settings: RankSettings
    device: torch.device
    peers: "dict[str, PlainLoop]" = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"Windlass": []})
    memory: dict[str, int] = field(default_factory=dict)
    """Peak bytes of the GPU in each competitor's turns, the state of the others left out."""
    profiler: profile | None = None

    def due(self, step: int) -> bool:
        return step % int(self.chosen.steps) == 0

    def __call__(self, model: nn.Module, step: int) -> Iterator[dict[str, Any]]:
        turn = step // self.chosen.steps
        if step == 0 and not self.chosen.alone:
            self.peers = {"plain loop": self.plain_loop(), "transformers": self.transformers()}
        if turn:
            self.end("Windlass")
        for name, peer in self.peers.items() if turn else ():
            self.begin()
            for _ in range(self.chosen.steps):
                peer.step()
            self.end(name)
        if self.profiler:
            print(
                self.profiler.key_averages().table(
                    sort_by="self_cuda_time_total", row_limit=30, max_name_column_width=70
                )
            )
        self.profiler = None
        self.begin()
        if self.chosen.profile and turn == self.chosen.turns - 1:
            self.profiler = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
            self.profiler.start()
        return iter(())

    def begin(self) -> None:
        """Start a turn."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.start = self.now()

    def end(self, name: str) -> None:
        """End a turn."""
        self.seconds.setdefault(name, []).append(self.now() - self.start)
        if self.profiler:
            self.profiler.stop()
        if self.device.type == "cuda":
            others = sum(peer.state_bytes() for other, peer in self.peers.items() if other != name)
            if name != "Windlass":
                others += 12 * self.settings.plan.parameters  # weights and AdamW's two moments
            self.memory[name] = torch.cuda.max_memory_allocated() - others

    def now(self) -> float:
        """The time once all kernels have run."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def plain_loop(self) -> "PlainLoop":
        """The decoder, with the loss one would write."""
        decoder = Decoder(self.config()).to(self.device)
        decoder.initialise(0)

        def loss(inputs: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(decoder(inputs).flatten(0, 1).float(), labels.flatten())

        return PlainLoop(self.chosen, self.settings, self.device, decoder, loss)

    def transformers(self) -> "PlainLoop":
        """The model of the same shape in transformers, with the loss that it has."""
        shape = transformers.AutoConfig.for_model(**write_config(self.config(), end_token=0))
        model = transformers.AutoModelForCausalLM.from_config(shape, attn_implementation="sdpa").to(self.device)

        def loss(inputs: Tensor, labels: Tensor) -> Tensor:
            output: Tensor = model(input_ids=inputs, labels=labels, shift_labels=labels, use_cache=False).loss
            return output

        return PlainLoop(self.chosen, self.settings, self.device, model, loss)

    def config(self) -> ModelConfig:
        """The architecture that all of them have."""
        spec = self.settings.job.spec
        return model_config(spec.model, load_tokenizer(self.settings.tokenizer).vocab_size)


@dataclass
class PlainLoop:
    """What one would write without Windlass, around a model and its loss."""

    chosen: argparse.Namespace
    settings: RankSettings
    device: torch.device
    model: nn.Module
    loss: Loss

    def __post_init__(self) -> None:
        split = Corpus.open(self.settings.train[0][0]).split("train")
        self.tokens = torch.from_numpy(split.read(0, split.tokens).astype("int64"))
        if not self.chosen.eager:
            self.loss = torch.compile(self.loss)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
        )

    def step(self) -> None:
        length, micro_batches = self.chosen.sequence_length, self.chosen.batch // self.chosen.micro_batch
        dtype = DTYPES.get(self.settings.plan.precision)
        for _ in range(micro_batches):
            at = torch.randint(len(self.tokens) - length - 1, (self.chosen.micro_batch,))
            windows = torch.stack([self.tokens[i : i + length + 1] for i in at.tolist()])
            if self.device.type == "cuda":
                windows = windows.pin_memory().to(self.device, non_blocking=True)
            with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
                loss = self.loss(windows[:, :-1], windows[:, 1:].contiguous())
            (loss / micro_batches).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_bytes(self) -> int:
        """Of the weights and the optimizer's moments."""
        states = (tensor for state in self.optimizer.state.values() for tensor in state.values())
        return sum(tensor.nbytes for tensor in [*self.model.parameters(), *states])


if __name__ == "__main__":
    main()
