"""What every rank runs: from the settings that the driver sends to the training loop. The same on Ray and alone."""

import logging
import os
import platform
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
from torch.distributed import FileStore, Store, TCPStore  # type: ignore[attr-defined]  # not in its __all__

from windlass.data.tokenizers import Tokenizer, load_tokenizer
from windlass.engine.batches import RankBatches, rank_batches
from windlass.engine.measure_suites import SuiteMeasurement
from windlass.engine.prompts import prompt_encoder
from windlass.engine.rank_settings import RankSettings
from windlass.engine.run_folder import RunFolder, write_json
from windlass.engine.runs import describe_model
from windlass.engine.suites import OpenSuite, open_suites
from windlass.engine.weights import give_weights
from windlass.lock import whereabouts
from windlass.models.build import build_model
from windlass.models.foreign import to_empty
from windlass.planning.peaks import peak_flops
from windlass.spec.job import LLMTrainingJob
from windlass.storage import Storage
from windlass.tasks.classify import label_loss
from windlass.training.commits import CommitLog
from windlass.training.hang import HangWatch
from windlass.training.loop import Outcome, TrainingRun, train
from windlass.training.measure import Measurement, Samples, Validation
from windlass.training.measure_labels import LabelMeasurement
from windlass.training.measure_preferences import PreferenceMeasurement
from windlass.training.optimizer import build_optimizer
from windlass.training.parallel import parallelise, settle_buckets, unwrapped
from windlass.training.ranks import Ranks, join_ranks, single_process
from windlass.training.recorder import Recorder, Sink
from windlass.training.sinks import PrometheusSink, TensorBoardSink, WandbSink

logger = logging.getLogger(__name__)

VALIDATIONS = 10
"""How often a run is measured where evaluation.everySteps does not say."""
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""How long ranks wait for one another; a storage may be away for minutes."""
RENDEZVOUS_TIMEOUT = timedelta(minutes=2)
"""How long ranks wait for one another when they start."""


def train_among(settings: RankSettings, rank: int, world_size: int, rendezvous: str) -> None:
    """One rank of several, each in a process of its own that sees one GPU or none.

    `rendezvous` is where they meet: file://PATH, or tcp://HOST:PORT of a torch.distributed.TCPStore.
    """
    run = RunFolder(settings.folder)
    _write_output_to(run.log(f"rank-{rank}"))
    write_json(run.rank(rank), {"pid": os.getpid()})
    on_gpu = settings.plan.device == "cuda"
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=_store(rendezvous, world_size),
        rank=rank,
        world_size=world_size,
        timeout=COLLECTIVE_TIMEOUT,
    )
    outcome = train_rank(settings, join_ranks(torch.device("cuda", 0) if on_gpu else torch.device("cpu")))
    dist.barrier()  # no rank leaves while another still talks to it
    dist.destroy_process_group()
    if rank == 0:
        run.tell("end", f"Ended at step {outcome.step}", step=outcome.step, stopped=outcome.stopped)


def _store(rendezvous: str, world_size: int) -> Store:
    place = urlsplit(rendezvous)
    if place.scheme == "tcp":
        assert place.hostname
        assert place.port
        return TCPStore(place.hostname, place.port, is_master=False, timeout=RENDEZVOUS_TIMEOUT)
    return FileStore(place.path, world_size)


def train_alone(settings: RankSettings) -> None:
    """The only rank, in this process."""
    _write_output_to(RunFolder(settings.folder).log("rank-0"))
    device = torch.device("cuda", 0) if settings.plan.device == "cuda" else torch.device(settings.plan.device)
    train_rank(settings, single_process(device))


def train_rank(settings: RankSettings, ranks: Ranks) -> Outcome:
    """Build this rank's model, data and files, and train. Raises WindlassError with the reason of a failure."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    torch.set_num_threads(settings.threads)
    here = f"{socket.gethostname()}, {ranks.device}, {settings.threads} threads"
    logger.info("Rank %d of %d starts on %s", ranks.rank, ranks.world_size, here)
    job, plan, run = settings.job, settings.plan, RunFolder(settings.folder)
    spec = job.spec
    tokenizer = load_tokenizer(settings.tokenizer)
    with torch.device("meta"):
        decoder = build_model(settings.config, spec.model)
    if plan.strategy in {"Single", "DDP"}:
        to_empty(decoder, ranks.device)
        decoder.initialise(spec.training.seed)
    model = parallelise(decoder, plan.strategy, plan.precision, spec.training.parallelism, ranks)
    if plan.strategy in {"FSDP", "HSDP"}:
        to_empty(model, ranks.device)

    give = partial(give_weights, unwrapped(model), settings.base, spec.training.seed)
    give(trained=False)  # no checkpoint holds them
    settle_buckets(model, ranks.device)
    batches = rank_batches(settings, ranks, tokenizer, model, partial(give, trained=True))

    device_name = torch.cuda.get_device_name() if ranks.device.type == "cuda" else platform.processor()
    if ranks.first:
        run.enter("Running", f"Training on {ranks.world_size} rank{'s' * (ranks.world_size > 1)}")
    recorder = Recorder(run.metrics if ranks.first else None, _sinks(job, run, ranks))
    hang_watch = HangWatch(spec.lifecycle.hang_timeout_seconds)
    with ExitStack() as stack:
        stack.callback(recorder.close)
        stack.callback(hang_watch.close)
        suites = stack.enter_context(open_suites(spec.evaluation))
        return train(
            TrainingRun(
                spec=spec,
                ranks=ranks,
                model=model,
                initialise=partial(give, trained=True),
                loss=batches.loss,
                metrics=batches.metrics,
                optimizer=build_optimizer(model, spec.training.optimizer),
                strategy=plan.strategy,
                precision=plan.precision,
                total_steps=settings.total_steps,
                stream=batches.stream,
                inputs={
                    "run": job.metadata.name,
                    "seed": spec.training.seed,
                    "batch": f"{spec.training.global_batch_size} sequences of {plan.sequence_length} tokens",
                    **batches.inputs,
                    "tokenizer": tokenizer.fingerprint,
                    **describe_model(settings.config),
                    "trained parameters": spec.model.model_dump(
                        mode="json", include={"trainable", "lora"}, exclude={"lora": {"dora", "quantize"}}
                    ),
                    "use of DoRA": spec.model.lora is not None and spec.model.lora.dora,
                    "quantisation of the base": spec.model.lora.quantize if spec.model.lora else "None",
                    **({"base's weights": settings.base.identity} if settings.base else {}),
                },
                measurements=_measurements(settings, ranks, tokenizer, batches, suites, hang_watch),
                log=CommitLog(Storage(run.checkpoints_uri(job))),
                recorder=recorder,
                hang_watch=hang_watch,
                stop_requested=run.stop.exists,
                notify=run.tell if ranks.first else lambda kind, message: None,
                writer=whereabouts(),
                flops_per_token=plan.flops_per_token,
                peak_flops=peak_flops(device_name, plan.precision),
            )
        )


def _measurements(
    settings: RankSettings,
    ranks: Ranks,
    tokenizer: Tokenizer,
    batches: RankBatches,
    suites: Sequence[OpenSuite],
    hang_watch: HangWatch,
) -> list[Measurement]:
    spec, total_steps = settings.job.spec, settings.total_steps
    every_steps = spec.evaluation.every_steps or max(1, total_steps // VALIDATIONS)
    how: dict[str, Any] = {
        "total_steps": total_steps,
        "ranks": ranks,
        "strategy": settings.plan.strategy,
        "precision": settings.plan.precision,
    }
    samples = Samples(
        prompts=spec.evaluation.prompts,
        tokens=spec.evaluation.sample_tokens,
        total_steps=total_steps,
        tokenizer=tokenizer,
        seed=spec.training.seed,
        encode=prompt_encoder(spec, tokenizer),
    )
    asked: list[Measurement] = [samples]
    if suites:
        batch_size = settings.plan.batching.micro_batch_size
        asked.append(
            SuiteMeasurement(suites, tokenizer, batch_size, every_steps=every_steps, alive=hang_watch.alive, **how)
        )
    if spec.task == "Preference":
        pairs = PreferenceMeasurement(
            batches=batches.splits["validation"], beta=spec.training.beta, every_steps=every_steps, **how
        )
        return [pairs, *asked]
    measurements: list[Measurement] = [
        Validation(
            batches=batches.splits["validation"],
            every_steps=every_steps,
            loss=label_loss if spec.task == "Classify" else batches.loss,
            **how,
        )
    ]
    if spec.model.head is not None:
        labels = spec.model.head.labels
        often = {"validation": every_steps, "test": None}
        return measurements + [
            LabelMeasurement(split=split, batches=found, labels=labels, every_steps=often[split], **how)
            for split, found in batches.splits.items()
        ]
    return [*measurements, *asked]


def _sinks(job: LLMTrainingJob, run: RunFolder, ranks: Ranks) -> list[Sink]:
    """TensorBoard and W&B get rank 0's records; Prometheus asks every rank."""
    sinks: list[Sink] = []
    if job.spec.logging.prometheus:
        prometheus = PrometheusSink(rank=ranks.rank, job=job.metadata.name)
        sinks.append(prometheus)
        write_json(run.rank(ranks.rank), {"pid": os.getpid(), "metrics": prometheus.address})
        targets = ranks.gather(prometheus.address)
        if ranks.first:
            write_json(run.prometheus, [{"targets": targets, "labels": {"job": job.metadata.name}}])
    if ranks.first and job.spec.logging.tensorboard:
        sinks.append(TensorBoardSink(run.path / "tensorboard"))
    if ranks.first and job.spec.logging.wandb is not None:
        sinks.append(WandbSink(job.spec.logging.wandb, job.metadata.name, run.path))
    return sinks


def _write_output_to(log: Path) -> None:
    """Send all that this process prints to its log, native libraries' last words included."""
    log.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
