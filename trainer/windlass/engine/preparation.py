"""From a job to what its ranks need: the corpora, the plan and the baseline."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from windlass.data.corpus import Corpus
from windlass.data.prepare import ensure_prepared
from windlass.data.stream import validation_batches
from windlass.data.tokenizers import BUILT_IN, Tokenizer, load_tokenizer
from windlass.engine.machine import Machine, environment, threads_of_rank
from windlass.engine.run_folder import RunFolder, write_json
from windlass.engine.train_function import RankSettings
from windlass.evaluation.bigram import Bigram
from windlass.planning.batching import total_steps
from windlass.planning.plan import Plan, make_plan
from windlass.spec.job import Data, LLMTrainingJob
from windlass.spec.presets import tokenizer_name

Progress = Callable[[str], None]
WeightedCorpora = list[tuple[Corpus, float]]


def prepare_run(job: LLMTrainingJob, run: RunFolder, machine: Machine, ranks: int, progress: Progress) -> RankSettings:
    """Prepare the corpus if it isn't, plan, measure the baseline. `progress` is told what happens, and may raise."""
    tokenizer = load_tokenizer(tokenizer_name(job.spec))
    if tokenizer.name not in BUILT_IN:
        tokenizer.save(run.tokenizer)
    train, validation = open_corpora(job, corpora_folder(run.path.parent), tokenizer, progress)
    train_tokens = sum(corpus.split("train").tokens for corpus, _ in train)
    plan = plan_on(machine, job, ranks, tokenizer, train_tokens)
    samples = sum((corpus.split("train").tokens - 1) // plan.sequence_length for corpus, _ in train)
    steps = total_steps(job.spec.training, plan.sequence_length, samples)
    write_json(run.plan, asdict(plan) | {"steps": steps})
    write_json(run.environment, environment(machine))
    for line in plan.lines():
        run.tell("plan", line)
    if job.spec.evaluation.baseline == "Bigram":
        measure_baseline(job, run, train, validation, tokenizer.vocab_size, plan.sequence_length)
    return RankSettings(
        job=job,
        folder=run.path,
        plan=plan,
        total_steps=steps,
        tokenizer=tokenizer_name(job.spec),
        train=[(corpus.uri, weight) for corpus, weight in train],
        validation=[(corpus.uri, weight) for corpus, weight in validation],
        threads=threads_of_rank(ranks),
    )


def plan_on(machine: Machine, job: LLMTrainingJob, ranks: int, tokenizer: Tokenizer, train_tokens: int | None) -> Plan:
    """The plan of a job for `ranks` ranks on this machine; arguments and errors as of `make_plan`."""
    return make_plan(
        job,
        vocab_size=tokenizer.vocab_size,
        world_size=ranks,
        device=machine.device,
        device_memory=machine.memory_of_rank(ranks),
        train_tokens=train_tokens,
        compute_capability=machine.compute_capability,
    )


def corpora_folder(runs: Path) -> Path:
    """Where corpora go that have no URI of their own: corpora/ beside the runs."""
    return runs.absolute().parent / "corpora"


def open_corpora(
    job: LLMTrainingJob, prepared: Path, tokenizer: Tokenizer, progress: Progress
) -> tuple[WeightedCorpora, WeightedCorpora]:
    """The corpora to train and to validate on. A corpus that the job prepares goes to `prepared` if it names no URI.

    Raises WindlassError: DataNotFound, or ConfigInvalid where a corpus was made with another tokenizer.
    """
    data = job.spec.data
    if data.prepare is not None:
        uri = data.train[0].uri if data.train else str(prepared / corpus_name(data, tokenizer))
        train = [(ensure_prepared(data.prepare, tokenizer, uri, progress)[0], 1.0)]
    else:
        train = [(Corpus.open(source.uri), source.weight) for source in data.train]
    validation = [(Corpus.open(source.uri), source.weight) for source in data.validation] or train
    for corpus, _ in train + validation:
        corpus.require_tokenizer(tokenizer)
    return train, validation


def corpus_name(data: Data, tokenizer: Tokenizer) -> str:
    """Folder name of a corpus that has no URI of its own: readable, and the same for all jobs that prepare it alike."""
    assert data.prepare is not None
    words = re.sub(r"[^a-z0-9]+", "-", data.prepare.sources[0].uri.lower()).strip("-")[-40:].strip("-")
    what = data.prepare.model_dump_json() + tokenizer.fingerprint
    return f"{words}-{hashlib.sha256(what.encode()).hexdigest()[:8]}"


def measure_baseline(
    job: LLMTrainingJob,
    run: RunFolder,
    train: WeightedCorpora,
    validation: WeightedCorpora,
    vocab_size: int,
    sequence_length: int,
) -> None:
    """Fit a bigram model and write its loss on the windows that the model is validated on."""
    bigram = Bigram.fit(train[0][0].split("train"), vocab_size)
    windows = validation_batches(
        validation,
        sequence_length=sequence_length,
        batch_size=32,
        max_tokens=job.spec.evaluation.max_tokens,
        rank=0,
        world_size=1,
    )
    loss = bigram.loss(windows)
    write_json(run.baseline, {"name": "bigram", "validation_loss": loss})
    run.tell("info", f"Bigram baseline: validation loss {loss:.4f}")
