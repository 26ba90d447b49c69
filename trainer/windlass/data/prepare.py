"""From raw documents to a corpus: units of work, the decisions that need all of them, shards, and the manifest last."""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from windlass.data.blocks import Layout
from windlass.data.corpus import (
    MANIFEST,
    Corpus,
    LeftOut,
    Manifest,
    Preparation,
    SplitManifest,
    SplitName,
    TokenizerIdentity,
    read_manifest,
)
from windlass.data.preparation.assembly import assemble
from windlass.data.preparation.card import CARD, STATS, card, global_steps, statistics
from windlass.data.preparation.counts import Counts, Step, left_out
from windlass.data.preparation.processes import completed, process_pool
from windlass.data.preparation.progress import Report
from windlass.data.preparation.selection import Selection, select
from windlass.data.preparation.unit import EMPTY, NOT_UTF8, Recipe, read_counts, run_unit
from windlass.data.preparation.units import Unit, cut
from windlass.data.preparation.workspace import Workspace
from windlass.data.sources.files import SourceFile
from windlass.data.sources.listing import list_files
from windlass.data.tokenizers import BUILT_IN, Tokenizer
from windlass.errors import WindlassError
from windlass.lock import Claim, claim_storage
from windlass.spec.job import Prepare
from windlass.storage import Storage, shown

# Part of every fingerprint: raise it when the same inputs give other shards, so that corpora are prepared again.
_VERSION = 2
_LAYOUT = Layout()
_SMALL = 8 << 20  # bytes of sources that one process is done with before others have started
_WAIT = 1.0  # seconds between two looks at a corpus that another process prepares
# After these errors the inputs must change, or the disk is full: what was done is of no use.
_HOPELESS = {"ConfigInvalid", "DataCorrupt", "DataNotFound", "StorageFull"}

Progress = Callable[[str], None]


def prepare(
    spec: Prepare,
    tokenizer: Tokenizer,
    uri: str,
    progress: Progress = lambda line: None,
    *,
    workers: int = 1,
    executor: Executor | None = None,
) -> Corpus:
    """Prepare the corpus at `uri` from its sources, whether or not one is there; it appears whole or not at all.

    The corpus is the same, byte for byte, on any number of `workers`, processes of this machine (more than one need the
    usual `if __name__ == "__main__"` in a script), or on another `executor` that `workers` tells the size of, such as
    `windlass.engine.ray_executor`. One that was killed goes on where it was. `progress` gets a line for people about
    once a second, and may raise to stop.

    Raises DataNotFound where sources are missing or empty, DataCorrupt for a broken record or a file that changes,
    StorageFull, AccessDenied.
    """
    inputs = _inputs(spec, tokenizer)
    with _claimed(uri, progress) as (claim, _):
        return _prepare(inputs, tokenizer, uri, claim, progress, workers, executor)


def ensure_prepared(
    spec: Prepare,
    tokenizer: Tokenizer,
    uri: str,
    progress: Progress = lambda line: None,
    *,
    workers: int = 1,
    executor: Executor | None = None,
) -> tuple[Corpus, bool]:
    """Return the corpus at `uri`, and whether it was made now: it was missing, or made of other inputs.

    Inputs are the files (names, sizes, modification times or ETags), the settings and the tokenizer. Where another
    process prepares the same corpus, this one waits and finds it. Arguments and errors as of `prepare`.
    """
    inputs = _inputs(spec, tokenizer)
    if corpus := _prepared(inputs, uri, progress):
        return corpus, False
    with _claimed(uri, progress) as (claim, waited):
        if waited and (corpus := _prepared(inputs, uri, progress)):
            return corpus, False
        return _prepare(inputs, tokenizer, uri, claim, progress, workers, executor), True


@dataclass(frozen=True)
class _Inputs:
    """What a corpus is made of."""

    spec: Prepare
    files: list[list[SourceFile]]
    """Of each source."""
    fingerprint: str


def _inputs(spec: Prepare, tokenizer: Tokenizer) -> _Inputs:
    files = [list_files(source) for source in spec.sources]
    tests = [list_files(source) for source in spec.decontaminate.against] if spec.decontaminate else []
    identity = {
        "version": _VERSION,
        "settings": spec.model_dump(mode="json", exclude_defaults=True),
        "files": [[[file.name, file.size, file.version] for file in its_files] for its_files in files + tests],
        "tokenizer": tokenizer.fingerprint,
    }
    return _Inputs(spec, files, hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest())


def _prepared(inputs: _Inputs, uri: str, progress: Progress) -> Corpus | None:
    """Return the corpus that was made of these inputs, if it is there in full."""
    storage = Storage(uri)
    manifest = _existing(storage)
    if not manifest or manifest.preparation.fingerprint != inputs.fingerprint:
        return None
    if not _complete(storage, manifest):
        progress(f"files of the corpus {shown(uri)} are missing or cut short; preparing it again")
        return None
    return Corpus.open(uri)


@contextlib.contextmanager
def _claimed(uri: str, progress: Progress) -> Iterator[tuple[Claim, bool]]:
    """Hold the lock on the corpus; yield it, and whether another process held it before."""
    storage = Storage(uri)
    claim, waited = None, False
    while claim is None:
        try:
            claim = storage.call(lambda: claim_storage(uri, 0, run="windlass data prepare", folder=os.getcwd()))
        except WindlassError as error:
            if error.reason != "StorageInUse":
                raise
            progress(f"waiting for another preparation: {error.message.partition('. Wait')[0]}")
            waited = True
            time.sleep(_WAIT)
        except (FileExistsError, NotADirectoryError) as error:
            message = f"{shown(uri)} cannot be a folder: a file is in the way"
            raise WindlassError("ConfigInvalid", message) from error
    try:
        yield claim, waited
    finally:
        claim.release()


def _prepare(
    inputs: _Inputs,
    tokenizer: Tokenizer,
    uri: str,
    claim: Claim,
    progress: Progress,
    workers: int,
    executor: Executor | None,
) -> Corpus:
    storage = Storage(uri)
    previous = _existing(storage)
    folder = f"data-{inputs.fingerprint[:16]}"
    workspace = Workspace(storage.child(f".work-{inputs.fingerprint[:16]}").uri)
    try:
        manifest = _make(inputs, tokenizer, storage.child(folder), workspace, progress, workers, executor)
        storage.write(MANIFEST, manifest.model_dump_json(indent=1).encode())
    except BaseException as error:
        hopeless = isinstance(error, WindlassError) and error.reason in _HOPELESS
        with contextlib.suppress(WindlassError, OSError):  # what went wrong first is what counts
            impatient = Storage(uri, patience=0)
            if claim.held(patience=0):  # else another process goes on with all of it, or trains on it
                named = _existing(impatient)
                if not named or named.folder != folder:  # else it went over a corpus that was whole
                    impatient.delete(folder)
                if hopeless:
                    workspace.delete()
        raise
    if claim.held():
        _tidy(storage, {folder, previous.folder if previous else folder})
    return Corpus.open(uri)


def _make(
    inputs: _Inputs,
    tokenizer: Tokenizer,
    target: Storage,
    workspace: Workspace,
    progress: Progress,
    workers: int,
    executor: Executor | None,
) -> Manifest:
    """Write everything but the manifest, and return that."""
    with ThreadPoolExecutor(1) as background:  # saving a large vocabulary takes seconds
        saved = background.submit(_write_tokenizer, tokenizer, target.child("tokenizer"))
        manifest = _write_data(inputs, tokenizer, target, workspace, progress, workers, executor)
        saved.result()
    return manifest


def _write_data(
    inputs: _Inputs,
    tokenizer: Tokenizer,
    target: Storage,
    workspace: Workspace,
    progress: Progress,
    workers: int,
    executor: Executor | None,
) -> Manifest:
    """Write shards and card, and return the manifest."""
    spec = inputs.spec
    units = cut(spec.sources, inputs.files)
    recipe = _recipe(spec, tokenizer, workspace)
    report = Report(progress, sum(unit.size for unit in units))
    _run(recipe, units, workspace, report, workers, executor)
    counts = report.counts
    selection = select(recipe, units, workspace, workers, lambda: report.tick("looking for duplicates"))
    counts.steps |= global_steps(selection, units, workspace)
    splits = assemble(recipe, units, selection, workspace, target, _LAYOUT, lambda: report.tick("writing shards"))
    if not any(split.tokens for split in splits.values()):
        uris = ", ".join(shown(source.uri) for source in spec.sources)
        raise WindlassError("DataNotFound", f"{uris}: no document can be used{left_out(counts.steps.items())}")
    manifest = _manifest(inputs, recipe, tokenizer, target, splits, counts)
    _write_card(recipe, manifest, counts, selection, units, workspace, tokenizer, target)
    tokens = sum(split.tokens for split in splits.values())
    documents = f"{counts.documents:,} document{'s' * (counts.documents != 1)}"
    progress(f"prepared {documents}, {tokens:,} tokens{left_out(counts.steps.items())}")
    return manifest


def _recipe(spec: Prepare, tokenizer: Tokenizer, workspace: Workspace) -> Recipe:
    """Return what the units need, once the tokenizer lies where their processes find it."""
    name = tokenizer.name
    if name not in BUILT_IN:
        folder = workspace.storage.child("tokenizer")
        _write_tokenizer(tokenizer, folder)
        name = folder.uri
    token_type = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    return Recipe(spec, name, token_type, workspace.storage.uri, workspace.mark())  # type: ignore[arg-type]


def _run(
    recipe: Recipe, units: list[Unit], workspace: Workspace, report: Report, workers: int, executor: Executor | None
) -> None:
    """Do the units that are not done yet, and count them all in their order."""
    names = workspace.names()
    todo = []
    for unit in units:
        if f"{unit.number:06}.json" in names:
            report.add(read_counts(workspace, unit), unit.size, fresh=False)
        else:
            todo.append(unit)
    if sum(unit.size for unit in todo) <= _SMALL:
        workers, executor = 1, None
    with contextlib.nullcontext(executor) if executor else process_pool(min(workers, len(todo))) as pool:
        work = [(recipe, unit) for unit in todo]
        with contextlib.closing(completed(pool, workers, run_unit, work, report.tick)) as done:
            for number, counts in done:
                report.add(counts, units[number].size, fresh=True)
    report.counts = Counts()
    for unit in units:  # in their order, whatever the order they came in
        report.counts.add(read_counts(workspace, unit))


def _manifest(
    inputs: _Inputs,
    recipe: Recipe,
    tokenizer: Tokenizer,
    target: Storage,
    splits: dict[SplitName, SplitManifest],
    counts: Counts,
) -> Manifest:
    sources = [source.model_dump(mode="json") | {"uri": shown(source.uri)} for source in inputs.spec.sources]
    return Manifest(
        tokenizer=TokenizerIdentity(
            name=tokenizer.name,
            vocab_size=tokenizer.vocab_size,
            end_of_document=tokenizer.end_of_document,
            fingerprint=tokenizer.fingerprint,
        ),
        token_type=recipe.token_type,
        layout=_LAYOUT,
        folder=target.uri.rpartition("/")[2],
        splits=splits,
        preparation=Preparation(
            fingerprint=inputs.fingerprint,
            documents=counts.documents,
            tokens=sum(split.tokens for split in splits.values()),
            not_utf8=_summary(counts.steps[NOT_UTF8]),
            empty=_summary(counts.steps[EMPTY]),
            sources=sources,
        ),
    )


def _summary(step: Step) -> LeftOut:
    return LeftOut(count=step.removed, names=step.names)


def _write_card(
    recipe: Recipe,
    manifest: Manifest,
    counts: Counts,
    selection: Selection,
    units: list[Unit],
    workspace: Workspace,
    tokenizer: Tokenizer,
    target: Storage,
) -> None:
    stats = statistics(recipe, manifest, counts, selection, units, workspace, tokenizer)
    target.write(STATS, json.dumps(stats, indent=1, ensure_ascii=False).encode())
    target.write(CARD, card(stats).encode())


def _write_tokenizer(tokenizer: Tokenizer, storage: Storage) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        for file in Path(folder).iterdir():
            storage.write(file.name, file.read_bytes())


def _tidy(storage: Storage, keep: set[str]) -> None:
    """Delete what no reader can need: working folders, and data older than the preparation before."""
    folders = {name.partition("/")[0] for name in storage.list() if "/" in name}
    for folder in folders - keep:
        if folder.startswith((".work-", "data-")):
            storage.delete(folder)


def _existing(storage: Storage) -> Manifest | None:
    try:
        return read_manifest(storage)
    except WindlassError as error:
        if error.reason not in ("DataNotFound", "DataCorrupt"):
            raise
        return None


def _complete(storage: Storage, manifest: Manifest) -> bool:
    """Return whether all files of the corpus are there in full; their contents are verified when they are read."""
    splits = manifest.splits.values()
    wanted = {(file.name, file.size) for split in splits for file in [*split.shards, *split.document_ends]}
    return wanted <= set(storage.child(manifest.folder).list().items())
