"""Evaluate a run's model, or one in a folder: what it is, what is measured, and the files that say so."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windlass.data.corpus import Corpus
from windlass.data.sources.listing import list_files
from windlass.data.tokenizers import Tokenizer, load_tokenizer
from windlass.engine.bases import CONFIG, alike
from windlass.engine.machine import environment, this_machine
from windlass.engine.run_folder import now, write_json
from windlass.engine.runs import find_run, load_checkpoint
from windlass.errors import WindlassError
from windlass.evaluation import card, record
from windlass.evaluation.memorisation import probe
from windlass.evaluation.overlap import Overlap, find_overlap
from windlass.evaluation.perplexity import score_text
from windlass.evaluation.scores import Score
from windlass.models.classifier import Classifier
from windlass.models.decoder import Decoder
from windlass.models.huggingface import load_model
from windlass.spec.job import RawData


@dataclass(frozen=True)
class Request:
    """What is measured, and on how much of it."""

    suites: Sequence[str] = ()
    texts: Sequence[RawData] = ()
    data: Path | None = None
    """Folder of the suites' data; None: the Hugging Face hub."""
    few_shot: int | None = None
    decontaminate: Sequence[str] = ()
    """Corpora or raw sources in which the suites' items are looked for."""
    text_field: str = "text"
    """Of those raw sources."""
    memorisation: Sequence[str] = ()
    """Prepared corpora, of which the model continues passages."""
    passages: int = 100
    limit: int | None = None
    """Items of each task, windows of each text."""
    batch_size: int = 8


@dataclass(frozen=True)
class Subject:
    """A model that is measured."""

    model: Decoder
    tokenizer: Tokenizer
    name: str
    place: str
    checkpoint: str | None
    """Of a run."""


def evaluate(place: Path | str, request: Request, out: Path, tokenizer: str | None = None) -> dict[str, Any]:
    """Measure a model; write evaluation.json and model-card.md to `out`, and return what the first one holds.

    `place` is a run, as of `load_run`, or a folder in Hugging Face layout. Everything asked for is found before the
    model is loaded.

    Raises WindlassError: ConfigInvalid for an unknown suite, a tokenizer that is not the model's, nothing to measure;
        DataNotFound for a model, a text or a suite's file that is not there.
    """
    if request.decontaminate and not request.suites:
        raise WindlassError("ConfigInvalid", "--decontaminate looks for items of suites; name one: --suite")
    if not (request.suites or request.texts or request.memorisation):
        raise WindlassError("ConfigInvalid", "there is nothing to measure; name a suite (--suite) or a text (--text)")
    for text in request.texts:
        list_files(text)
    for corpus in request.memorisation:
        Corpus.open(corpus)
    if not request.suites:
        subject = _load(place, tokenizer)
        return _write(subject, request, [], [], out)
    from windlass.evaluation.suites import open_benchmarks  # imports lm_eval, which takes seconds

    with open_benchmarks(request.suites, request.data, request.few_shot) as benchmarks:
        from windlass.evaluation.harness import DecoderLM
        from windlass.evaluation.suites import run_benchmarks

        items = benchmarks.items(request.limit) if request.decontaminate else {}
        overlaps = [find_overlap(items, corpus, request.text_field) for corpus in request.decontaminate]
        known = {item for overlap in overlaps for item in overlap.found} if overlaps else None
        subject = _load(place, tokenizer)
        lm = DecoderLM(subject.model, subject.tokenizer, request.batch_size)
        return _write(subject, request, run_benchmarks(lm, benchmarks, request.limit, known), overlaps, out)


def _write(
    subject: Subject, request: Request, scores: Sequence[Score], overlaps: Sequence[Overlap], out: Path
) -> dict[str, Any]:
    model, tokenizer = subject.model, subject.tokenizer
    texts = [
        score_text(model, tokenizer, text, batch_size=request.batch_size, limit=request.limit) for text in request.texts
    ]
    recalls = {
        corpus: probe(model, tokenizer, Corpus.open(corpus), passages=request.passages, batch_size=request.batch_size)
        for corpus in request.memorisation
    }
    found = {
        "model": {
            "name": subject.name,
            "place": subject.place,
            "checkpoint": subject.checkpoint,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "context_length": model.config.context_length,
            "tokenizer": tokenizer.name,
            "vocab_size": tokenizer.vocab_size,
        },
        "time": now(),
        "limit": request.limit,
        **record.results(texts, scores, overlaps, recalls),
        "environment": environment(this_machine()),
    }
    write_json(out / record.FILE, found)
    (out / card.FILE).write_text(card.model_card(found), encoding="utf-8")
    return found


def _load(place: Path | str, asked: str | None) -> Subject:
    folder = Path(place)
    if (folder / CONFIG).exists() and not (folder / "job.yaml").exists():
        model, checkpoint = load_model(folder), None
        own = load_tokenizer(str(folder)) if (folder / "tokenizer.json").exists() else None
    else:
        model, own, commit = load_checkpoint(find_run(place))
        checkpoint = commit.folder
    if isinstance(model, Classifier):
        raise WindlassError(
            "ConfigInvalid", f"{place} is a classifier and writes no text; its accuracy is in its result.json"
        )
    tokenizer = _tokenizer(str(place), own, asked, model.config.vocab_size)
    model.to(this_machine().device)
    return Subject(model, tokenizer, folder.name, str(place), checkpoint)


def _tokenizer(place: str, own: Tokenizer | None, asked: str | None, vocab_size: int) -> Tokenizer:
    if own is None and asked is None:
        raise WindlassError("DataNotFound", f"{place} has no tokenizer.json; name the one of its training: --tokenizer")
    tokenizer = load_tokenizer(asked) if asked is not None else own
    assert tokenizer is not None
    if own is not None and not alike(own, tokenizer):
        theirs = f"{own.name} ({own.vocab_size:,} tokens)"
        raise WindlassError(
            "ConfigInvalid", f"--tokenizer {asked} is not the tokenizer of {place}, {theirs}; leave it out"
        )
    if tokenizer.vocab_size > vocab_size:
        raise WindlassError(
            "ConfigInvalid",
            f"tokenizer {tokenizer.name} has {tokenizer.vocab_size:,} tokens, and {place} embeds {vocab_size:,}; name "
            "the one it was trained with: --tokenizer",
        )
    return tokenizer
