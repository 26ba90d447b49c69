"""`windlass data`: prepare corpora, train tokenizers, and look into a corpus."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from windlass.cli.show import printable, warn, write
from windlass.data.corpus import Corpus
from windlass.data.inspect import card_of, describe, verify
from windlass.data.inspect import samples as sample_lines
from windlass.data.preparation.processes import processors
from windlass.data.prepare import ensure_prepared
from windlass.data.tokenizer_training import train_tokenizer
from windlass.data.tokenizers import load_tokenizer
from windlass.engine.preparation import corpora_folder, find_model, open_corpora
from windlass.errors import WindlassError
from windlass.spec.document import parse
from windlass.spec.job import API_VERSION, KIND, LLMTrainingJob
from windlass.spec.loading import InvalidJob, load_job_text


def prepare_job(job: LLMTrainingJob, runs: Path, *, workers: int | None, ray: str | None) -> None:
    """Make the job's corpus where it is missing or its inputs changed, and describe it."""
    if job.spec.data.prepare is None:
        raise WindlassError("ConfigInvalid", "spec.data.prepare: missing; it says what to make a corpus of")
    with _continued(), _spread(workers, ray) as (size, executor):
        _, _, tokenizer = find_model(job, runs)
        corpora, _ = open_corpora(job, corpora_folder(runs), tokenizer, warn, size, executor)
    for line in describe(corpora[0][0]):
        write(line)


def prepare_sources(
    sources: Sequence[str],
    out: str,
    *,
    tokenizer: str,
    workers: int | None,
    ray: str | None,
    config: Path | None,
    settings: dict[str, Any],
    overrides: Sequence[str],
) -> None:
    """Make a corpus of sources where it is missing or its inputs changed, and describe it.

    `config` is a file with a job's data.prepare; `settings` are values of it by the names in options, those that are
    given; `overrides` are PATH=VALUE within it.
    """
    job = _job(sources, out, tokenizer, config, settings, overrides)
    assert job.spec.data.prepare
    with _continued(), _spread(workers, ray) as (size, executor):
        made = load_tokenizer(tokenizer)
        corpus, _ = ensure_prepared(job.spec.data.prepare, made, out, warn, workers=size, executor=executor)
    for line in describe(corpus):
        write(line)


def train(
    sources: Sequence[str],
    vocab_size: int,
    out: Path,
    *,
    format: str | None,
    text_field: str | None,
    special: list[str],
) -> None:
    """Train a tokenizer on sources and say what it is."""
    options = {"format": format, "textField": text_field}
    given = {name: value for name, value in options.items() if value is not None}
    job = _job(sources, "unused", "bytes", None, given, ())
    assert job.spec.data.prepare
    made = train_tokenizer(job.spec.data.prepare.sources, vocab_size, out, special=special, progress=warn)
    write(f"tokenizer   {made.vocab_size:,} tokens at {out}; use it with --tokenizer {out}, or as spec.tokenizer")


def inspect(uri: str, *, samples: int, sequence_length: int, seed: int, check: bool) -> None:
    """Print card, counts and samples of a corpus; with `check`, verify its hashes first. Raises DataCorrupt."""
    corpus = Corpus.open(uri)
    if check:
        write(f"verified    {verify(corpus):,} bytes match their hashes")
    for line in describe(corpus):
        write(line)
    for line in card_of(corpus):
        write(printable(line))
    if samples:
        write()
        for line in sample_lines(corpus, sequence_length=sequence_length, seed=seed, count=samples):
            write(printable(line))


@contextmanager
def _spread(workers: int | None, ray: str | None) -> Iterator[tuple[int, Executor | None]]:
    """Yield what the work is spread over: processes of this machine, or the Ray cluster at an address."""
    if ray is None:
        yield workers or processors(), None
        return
    from windlass.engine.ray_executor import ray_executor

    with ray_executor(ray) as executor:
        warn(f"Ray cluster: {executor.cpus} CPUs on {executor.nodes} nodes")
        yield executor.cpus, executor


@contextmanager
def _continued() -> Iterator[None]:
    """Say after Ctrl-C that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        warn("Interrupted; the same command continues where it was.")
        raise


def _job(
    sources: Sequence[str],
    out: str,
    tokenizer: str,
    config: Path | None,
    settings: dict[str, Any],
    overrides: Sequence[str],
) -> LLMTrainingJob:
    """Return a job with this preparation; all that is wrong with it is said as for a job file."""
    prepare = _section(config) if config else {}
    source = {name: settings[name] for name in ("format", "textField") if name in settings}
    if sources:
        prepare["sources"] = [{"uri": uri, **source} for uri in sources]
    for name in ("validationFraction", "clean", "deduplicate"):
        if name in settings:
            prepare[name] = settings[name]
    if against := settings.get("decontaminate"):
        prepare["decontaminate"] = {"against": [{"uri": uri} for uri in against]}
    spec = {
        "model": {"preset": "gpt2-nano"},
        "tokenizer": tokenizer,
        "data": {"train": [{"uri": out}], "prepare": prepare},
        "training": {"maxSteps": 1},
    }
    document = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "prepare"}, "spec": spec}
    try:
        return load_job_text(json.dumps(document), "", [f"data.prepare.{override}" for override in overrides])
    except InvalidJob as error:  # the file with these lines is made up
        raise InvalidJob([replace(problem, line=None) for problem in error.problems]) from error


def _section(config: Path) -> dict[str, Any]:
    try:
        document = parse(config.read_text(encoding="utf-8-sig"), str(config))
    except (OSError, UnicodeDecodeError) as error:
        raise WindlassError("ConfigInvalid", f"{config}: cannot be read: {error}") from error
    if document.problems or not isinstance(document.value, dict):
        message = "; ".join(map(str, document.problems)) or f"{config}: write a job's data.prepare: sources, clean, ..."
        raise WindlassError("ConfigInvalid", message)
    return document.value
