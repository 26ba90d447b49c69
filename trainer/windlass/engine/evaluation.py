"""Evaluate a run's model, or one in a folder: what it is, what is measured, and the files that say so."""

import pickle
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from windlass.data.corpus import MANIFEST, Corpus
from windlass.data.sources.listing import list_files
from windlass.data.tokenizers import Tokenizer, load_tokenizer
from windlass.engine.bases import CONFIG, HUB, Base, alike, base_model, find_base, model_in, tokenizer_of
from windlass.engine.machine import environment, this_machine, threads_of_rank
from windlass.engine.preparation import corpora_folder, places_of_corpora
from windlass.engine.prompts import prompt_encoder, warn_of_length
from windlass.engine.run_folder import now, write_json
from windlass.engine.runs import TrainedRun, find_run, load_checkpoint
from windlass.errors import WindlassError
from windlass.evaluation import card, record
from windlass.evaluation.bigram import Bigram
from windlass.evaluation.memorisation import probe
from windlass.evaluation.overlap import Overlap, find_overlap
from windlass.evaluation.perplexity import TextScore, measure_text, score_text
from windlass.evaluation.report import write_report
from windlass.evaluation.scores import Item, Score
from windlass.models.foreign import AnyModel
from windlass.models.generation import generate
from windlass.spec.job import RawData
from windlass.storage import Storage, shown
from windlass.training.ranks import join_ranks

if TYPE_CHECKING:
    from windlass.evaluation.harness import Share
    from windlass.evaluation.suites import Benchmarks


@dataclass(frozen=True)
class Request:
    """What is measured, and on how much of it."""

    suites: Sequence[str] = ()
    texts: Sequence[RawData] = ()
    prompts: Sequence[str] = ()
    """Texts that the models continue."""
    base: str | None = None
    """What the model is compared with, as `place` of `evaluate`; None: what its run started from."""
    baseline: Sequence[str] = ()
    """Prepared corpora that the bigram baseline of texts is fitted on; none: those of its run."""
    alone: bool = False
    """Compare the model with nothing."""
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
    workers: int | None = None
    """Processes that share the suites' items, a GPU each; None: one for each GPU, or one on the CPU."""
    max_new_tokens: int = 128
    """Of a continued prompt."""
    temperature: float = 0.0
    """Of a continued prompt; 0 takes the likeliest token."""


@dataclass(frozen=True)
class Subject:
    """A model that is measured."""

    model: AnyModel
    tokenizer: Tokenizer
    name: str
    place: str
    checkpoint: str | None
    """Of a run."""
    run: TrainedRun | None
    """What trained it, whose template its prompts are put in."""


@dataclass(frozen=True)
class Measured:
    """What one model was found to do."""

    texts: list[TextScore]
    scores: list[Score]
    samples: list[str]
    """What it continues each prompt with."""


def evaluate(place: Path | str, request: Request, out: Path, tokenizer: str | None = None) -> dict[str, Any]:
    """Measure a model; write evaluation.json, model-card.md and report.html to `out`, and return what the first holds.

    `place` is a run, as of `load_run`, hf://ORG/NAME or a folder in Hugging Face layout. A model that began
    with the weights of another one is compared with it, and with a bigram model of its training data. Everything asked
    for is found before a model is loaded.

    Raises WindlassError: ConfigInvalid for an unknown suite, a tokenizer that is not the model's, nothing to measure;
        DataNotFound for a model, a text or a suite's file that is not there.
    """
    _check(request)
    machine = this_machine()
    workers = machine.check_ranks(request.workers or machine.devices, "--workers")
    with ExitStack() as stack:
        benchmarks, overlaps = None, list[Overlap]()
        if request.suites:
            from windlass.evaluation.suites import open_benchmarks  # imports lm_eval, which takes seconds

            benchmarks = stack.enter_context(open_benchmarks(request.suites, request.data, request.few_shot))
            items = benchmarks.items(request.limit) if request.decontaminate else {}
            overlaps = [find_overlap(items, corpus, request.text_field) for corpus in request.decontaminate]
        subject = _load(place, tokenizer)
        other = None if request.alone else _load_other(subject, request)
        bigram, corpora, missing = _bigram(subject, request)
        known = {item for overlap in overlaps for item in overlap.found} if overlaps else None
        shared = _answer_together(workers, place, tokenizer, request, known) if benchmarks and workers > 1 else None
        of_other = None if other is None else _measure(other, request, benchmarks, known, subject, shared)
        found = _measure(subject, request, benchmarks, known, other, shared)
    recalls = {
        corpus: probe(
            subject.model,
            subject.tokenizer,
            Corpus.open(corpus),
            passages=request.passages,
            batch_size=request.batch_size,
        )
        for corpus in request.memorisation
    }
    results = {
        "model": _describe(subject),
        "base": other and _describe(other),
        "baseline": {"name": "bigram", "corpora": corpora, "missing": missing},
        "time": now(),
        "limit": request.limit,
        "texts": record.texts(
            found.texts,
            None if of_other is None else of_other.texts,
            bigram,
            same_tokens=other is not None and alike(subject.tokenizer, other.tokenizer),
        ),
        "suites": record.suites(found.scores, None if of_other is None else of_other.scores),
        "samples": [
            {"prompt": prompt, "text": text} | ({"base": of_other.samples[number]} if of_other else {})
            for number, (prompt, text) in enumerate(zip(request.prompts, found.samples, strict=True))
        ],
        "temperature": request.temperature,
        "contamination": [record.contamination(overlap) for overlap in overlaps],
        "memorisation": record.memorisation(recalls),
        "environment": environment(this_machine()),
    }
    write_json(out / record.FILE, results)
    (out / card.FILE).write_text(card.model_card(results), encoding="utf-8")
    write_report(out)
    return results


def _check(request: Request) -> None:
    """Refuse what cannot be measured."""
    if request.decontaminate and not request.suites:
        raise WindlassError("ConfigInvalid", "--decontaminate looks for items of suites; name one: --suite")
    if not (request.suites or request.texts or request.prompts or request.memorisation):
        raise WindlassError("ConfigInvalid", "there is nothing to measure; name a suite (--suite) or a text (--text)")
    if request.alone and (request.base or request.baseline):
        raise WindlassError("ConfigInvalid", "--alone compares with nothing; leave it out, or --base and --baseline")
    for text in request.texts:
        list_files(text)
    for corpus in (*request.memorisation, *request.baseline):
        Corpus.open(corpus)


def _measure(
    subject: Subject,
    request: Request,
    benchmarks: "Benchmarks | None",
    known: Collection[Item] | None,
    other: Subject | None,
    shared: dict[str, list[Score]] | None,
) -> Measured:
    """With the scores of `shared`, by the model's place, where several processes found them."""
    model, tokenizer = _alone_on_device(subject, other).model, subject.tokenizer
    if shared is not None:
        scores = shared[subject.place]
    else:
        scores = [] if benchmarks is None else _scores(subject, request, benchmarks, known)
    texts = [
        score_text(model, tokenizer, text, batch_size=request.batch_size, limit=request.limit) for text in request.texts
    ]
    return Measured(texts, scores, [_continue(subject, other, prompt, request) for prompt in request.prompts])


def _alone_on_device(subject: Subject, other: Subject | None) -> Subject:
    """Of two models, one at a time is on the GPU."""
    if other is not None:
        other.model.to("cpu")
    subject.model.to(this_machine().device)
    return subject


def _scores(
    subject: Subject,
    request: Request,
    benchmarks: "Benchmarks",
    known: Collection[Item] | None,
    share: "Share | None" = None,
) -> list[Score]:
    from windlass.evaluation.harness import DecoderLM
    from windlass.evaluation.suites import run_benchmarks

    lm = DecoderLM(subject.model, subject.tokenizer, request.batch_size, share)
    return run_benchmarks(lm, benchmarks, request.limit, known)


def _answer_together(
    workers: int, place: Path | str, tokenizer: str | None, request: Request, known: Collection[Item] | None
) -> dict[str, list[Score]]:
    """The scores of the suites by the models' places, from several processes that share the items."""
    with TemporaryDirectory(prefix="windlass-") as folder:
        try:
            start_processes(
                _take_part,
                (workers, place, tokenizer, request, known, folder),
                workers,
                daemon=True,
                start_method="spawn",
            )
        except ProcessExitedException as error:
            raise WindlassError(
                "RankFailed", f"{error}. Where memory ran out, take fewer --workers or a smaller --batch-size"
            ) from error
        found: dict[str, list[Score]] = pickle.loads(Path(folder, "scores").read_bytes())
    return found


def _take_part(
    rank: int,
    workers: int,
    place: Path | str,
    tokenizer: str | None,
    request: Request,
    known: Collection[Item] | None,
    folder: str,
) -> None:
    """One of several processes: it has both models, answers its share of the questions, and hears the other answers."""
    from windlass.evaluation.harness import Share
    from windlass.evaluation.suites import open_benchmarks

    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
    torch.set_num_threads(threads_of_rank(workers))
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=workers,
        timeout=timedelta(days=1),  # one may have longer questions; one that died is noticed by the parent
    )
    ranks = join_ranks(torch.device(this_machine().device))
    share = Share(ranks.rank, ranks.world_size, ranks.gather)
    subject = _load(place, tokenizer)
    other = None if request.alone else _load_other(subject, request)
    found = {}
    with open_benchmarks(request.suites, request.data, request.few_shot) as benchmarks:
        for this, that in ((other, subject), (subject, other)):
            if this is not None:
                found[this.place] = _scores(_alone_on_device(this, that), request, benchmarks, known, share)
    if ranks.first:
        Path(folder, "scores").write_bytes(pickle.dumps(found))
    dist.destroy_process_group()


def _continue(subject: Subject, other: Subject | None, prompt: str, request: Request) -> str:
    """The prompt in the model's template; a model without a run gets it as the other one does."""
    specs = [each.run.job.spec for each in (subject, other) if each is not None and each.run is not None]
    follows = [spec for spec in specs if spec.task in ("Instruct", "Preference")]
    tokenizer = subject.tokenizer
    encode = prompt_encoder(follows[0], tokenizer) if follows else tokenizer.encode
    asked = [int(token) for token in encode(prompt)] or [tokenizer.end_of_document]
    warn_of_length(asked, subject.model.config.context_length)
    tokens = generate(
        subject.model,
        asked,
        request.max_new_tokens,
        temperature=request.temperature,
        end_token=tokenizer.end_of_document,
        vocab_size=tokenizer.vocab_size,
    )
    return tokenizer.decode(list(tokens))


def _bigram(subject: Subject, request: Request) -> tuple[list[TextScore] | None, list[str], str | None]:
    """How well a bigram model of the training data does on the texts, the corpora, and why there is none."""
    if request.alone or not request.texts:
        return None, [], None
    corpora = [(uri, 1.0) for uri in request.baseline]
    if not corpora:
        if subject.run is None:
            return None, [], None
        corpora = _trained_on(subject.run)
        gone = [shown(uri) for uri, _ in corpora if not Storage(uri).exists(MANIFEST)]
        if gone or not corpora:
            why = f"{', '.join(gone)} is not there" if gone else "it was trained on no corpus"
            return None, [], f"{why}; name one: --baseline CORPUS"
    opened = [(Corpus.open(uri), weight) for uri, weight in corpora]
    for corpus, _ in opened:
        corpus.require_tokenizer(subject.tokenizer)
    bigram = Bigram.fit([(corpus.split("train"), weight) for corpus, weight in opened], subject.tokenizer.vocab_size)
    length = subject.model.config.context_length
    scores = [
        measure_text(bigram.losses, subject.tokenizer, text, length=length, limit=request.limit)
        for text in request.texts
    ]
    return scores, [shown(uri) for uri, _ in corpora], None


def _trained_on(run: TrainedRun) -> list[tuple[str, float]]:
    """The corpora that a run was trained on, or else the run that it began with, and their weights."""
    data = run.job.spec.data
    if data.examples is not None or not (data.prepare or data.train):
        return _trained_on(find_run(run.base.place)) if run.base and run.base.checkpoint else []
    return places_of_corpora(data, corpora_folder(Path(run.place).parent), load_tokenizer(run.tokenizer))


def _describe(subject: Subject) -> dict[str, Any]:
    return {
        "name": subject.name,
        "place": subject.place,
        "checkpoint": subject.checkpoint,
        "parameters": sum(parameter.numel() for parameter in subject.model.parameters()),
        "context_length": subject.model.config.context_length,
        "tokenizer": subject.tokenizer.name,
        "vocab_size": subject.tokenizer.vocab_size,
    }


def _load_other(subject: Subject, request: Request) -> Subject | None:
    """The model to compare with; None where none is named and the model began with random weights."""
    if request.base is not None:
        return _load(request.base, None)
    run = subject.run
    if run is None or run.base is None:
        return None
    try:
        return _load_base(run.base, load_tokenizer(run.tokenizer))
    except WindlassError as error:
        raise WindlassError(
            error.reason,
            f"{subject.place} began with {shown(run.base.uri)}: {error}; name another model to compare with, "
            "--base, or none: --alone",
        ) from error


def _load_base(base: Base, tokenizer: Tokenizer | None) -> Subject:
    """What a job's `model.from` names; `tokenizer` for weights that have none."""
    own = tokenizer_of(base, None) if tokenizer is None or base.tokenizer is not None else tokenizer
    run = find_run(base.place) if base.checkpoint is not None else None
    name = base.uri.rstrip("/").rpartition("/")[2]
    _require_text(run, shown(base.uri))
    return Subject(base_model(base), own, name, shown(base.uri), base.checkpoint, run)


def _is_run(place: Path | str) -> bool:
    """Whether it is not a model in Hugging Face layout."""
    folder = Path(place)
    is_model = (folder / CONFIG).exists() and not (folder / "job.yaml").exists()
    return not is_model and not str(place).startswith(HUB)


def _load(place: Path | str, asked: str | None) -> Subject:
    if str(place).startswith(HUB):
        base = find_base(str(place), Path("runs"))
        return _load_base(base, load_tokenizer(asked) if asked else None)
    folder = Path(place)
    model: AnyModel
    own: Tokenizer | None
    checkpoint, run = None, None
    if _is_run(place):
        run = find_run(place)
        _require_text(run, place)
        model, own, commit = load_checkpoint(run)
        checkpoint = commit.folder
    else:
        model = model_in(folder)
        own = load_tokenizer(str(folder)) if (folder / "tokenizer.json").exists() else None
    tokenizer = _tokenizer(str(place), own, asked, model.config.vocab_size)
    return Subject(model, tokenizer, folder.name, str(place), checkpoint, run)


def _require_text(run: TrainedRun | None, place: Path | str) -> None:
    """Raise ConfigInvalid for a run that trained a classifier."""
    if run is not None and run.job.spec.model.head is not None:
        raise WindlassError(
            "ConfigInvalid",
            f"{place} is a classifier and writes no text; its accuracy is in its result.json, and `windlass classify` "
            "asks it for labels",
        )


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
