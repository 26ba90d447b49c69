"""From raw documents to a corpus: split, tokenize, write shards, and the manifest last."""

import contextlib
import hashlib
import json
import math
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from windlass.data.blocks import Layout, Shard
from windlass.data.corpus import (
    MANIFEST,
    SPLITS,
    Corpus,
    LeftOut,
    Manifest,
    Preparation,
    SplitManifest,
    SplitName,
    TokenizerIdentity,
    TokenType,
    read_manifest,
)
from windlass.data.sources.document import Document
from windlass.data.sources.documents import documents
from windlass.data.sources.files import SourceFile
from windlass.data.sources.listing import list_files
from windlass.data.tokenizers import Tokenizer
from windlass.errors import WindlassError
from windlass.spec.job import Prepare, Source
from windlass.storage import Storage, shown

# Part of every fingerprint: raise it when the same inputs give other shards, so that corpora are prepared again.
_VERSION = 1
_LAYOUT = Layout()
_NAMES = 100  # of documents left out that the manifest keeps
_SECONDS = 1.0  # between two lines of progress

Progress = Callable[[str], None]
Files = list[list[SourceFile]]


def prepare(spec: Prepare, tokenizer: Tokenizer, uri: str, progress: Progress = lambda line: None) -> Corpus:
    """Prepare the corpus at `uri` from its sources, whether or not one is there; it appears whole or not at all.

    `progress` gets a line for people about once a second. Raises DataNotFound where sources are missing or empty,
    DataCorrupt for a broken record, StorageFull, AccessDenied.
    """
    return _prepare(spec, [list_files(source) for source in spec.sources], tokenizer, uri, progress)


def ensure_prepared(
    spec: Prepare, tokenizer: Tokenizer, uri: str, progress: Progress = lambda line: None
) -> tuple[Corpus, bool]:
    """Return the corpus at `uri`, and whether it was made now: it was missing, or made of other inputs.

    Inputs are the files (names, sizes, modification times or ETags), the settings and the tokenizer.
    """
    files = [list_files(source) for source in spec.sources]
    storage = Storage(uri)
    manifest = _existing(storage)
    if manifest and manifest.preparation.fingerprint == _fingerprint(spec, files, tokenizer):
        if _complete(storage, manifest):
            return Corpus.open(uri), False
        progress(f"files of the corpus {shown(uri)} are missing or cut short; preparing it again")
    return _prepare(spec, files, tokenizer, uri, progress), True


def _prepare(spec: Prepare, files: Files, tokenizer: Tokenizer, uri: str, progress: Progress) -> Corpus:
    storage = Storage(uri)
    fingerprint = _fingerprint(spec, files, tokenizer)
    folder = f"data-{fingerprint[:16]}"
    try:
        manifest = _write_data(spec, files, tokenizer, storage, fingerprint, folder, progress)
        storage.write(MANIFEST, manifest.model_dump_json(indent=1).encode())
    except BaseException:
        with contextlib.suppress(WindlassError, OSError):  # what went wrong first is what counts
            _discard(Storage(uri, patience=0), folder)
        raise
    return Corpus.open(uri)


def _write_data(
    spec: Prepare,
    files: Files,
    tokenizer: Tokenizer,
    storage: Storage,
    fingerprint: str,
    folder: str,
    progress: Progress,
) -> Manifest:
    """Write everything but the manifest, and return that."""
    target = storage.child(folder)
    token_type: TokenType = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    writers = {name: _SplitWriter(target, name, tokenizer, token_type) for name in SPLITS}
    tally = _Tally(progress)
    smallest = min(source.weight for source in spec.sources)
    for source, its_files in zip(spec.sources, files, strict=True):
        for split, text in _texts(source, its_files, spec.validation_fraction, source.weight / smallest, tally):
            tally.tokens += writers[split].add(text)
            tally.report()
    if not tally.tokens:
        uris = ", ".join(shown(source.uri) for source in spec.sources)
        raise WindlassError("DataNotFound", f"{uris}: no document can be used{tally.left_out()}")
    splits = {name: writer.finish() for name, writer in writers.items()}
    _write_tokenizer(tokenizer, target.child("tokenizer"))
    progress(f"prepared {tally.line()}{tally.left_out()}")
    return Manifest(
        tokenizer=TokenizerIdentity(
            name=tokenizer.name,
            vocab_size=tokenizer.vocab_size,
            end_of_document=tokenizer.end_of_document,
            fingerprint=tokenizer.fingerprint,
        ),
        token_type=token_type,
        layout=_LAYOUT,
        folder=folder,
        splits=splits,
        preparation=Preparation(
            fingerprint=fingerprint,
            documents=tally.documents,
            tokens=tally.tokens,
            not_utf8=tally.not_utf8.summary(),
            empty=tally.empty.summary(),
            sources=[source.model_dump(mode="json") | {"uri": shown(source.uri)} for source in spec.sources],
        ),
    )


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


def _discard(storage: Storage, folder: str) -> None:
    """Delete what a failed preparation wrote, unless it went over a corpus that was whole."""
    manifest = _existing(storage)
    if not manifest or manifest.folder != folder:
        storage.delete(folder)


def _fingerprint(spec: Prepare, files: Files, tokenizer: Tokenizer) -> str:
    inputs = {
        "version": _VERSION,
        "settings": spec.model_dump(mode="json", exclude_defaults=True),
        "files": [[[file.name, file.size, file.version] for file in its_files] for its_files in files],
        "tokenizer": tokenizer.fingerprint,
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


@dataclass
class _Names:
    """Names of documents left out: all counted, the first kept."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.names) < _NAMES:
            self.names.append(name)

    def summary(self) -> LeftOut:
        return LeftOut(count=self.count, names=self.names)


@dataclass
class _Tally:
    """What was read so far, and when that was last said."""

    progress: Progress
    documents: int = 0
    tokens: int = 0
    not_utf8: _Names = field(default_factory=_Names)
    empty: _Names = field(default_factory=_Names)
    reported: float = field(default_factory=time.monotonic)

    def usable(self, document: Document) -> bool:
        self.documents += 1
        if document.text is None:
            self.not_utf8.add(document.name)
        elif not document.text.strip():
            self.empty.add(document.name)
        else:
            return True
        return False

    def report(self) -> None:
        if time.monotonic() - self.reported >= _SECONDS:
            self.reported = time.monotonic()
            self.progress(self.line())

    def line(self) -> str:
        return f"{self.documents:,} documents, {self.tokens:,} tokens"

    def left_out(self) -> str:
        """Return "; left out: 2 not UTF-8 (a.txt, b.txt), 1 empty (c.txt)", or nothing."""
        kinds = [(self.not_utf8, "not UTF-8"), (self.empty, "empty")]
        parts = [f"{kind.count:,} {word} ({_few(kind)})" for kind, word in kinds if kind.count]
        return f"; left out: {', '.join(parts)}" if parts else ""


def _few(names: _Names) -> str:
    return ", ".join(names.names[:3]) + (", ..." if names.count > 3 else "")


def _texts(
    source: Source, files: list[SourceFile], fraction: float, repeats: float, tally: _Tally
) -> Iterator[tuple[SplitName, str]]:
    """Yield the source's texts with their splits; training documents `repeats` times on average, in as many passes."""
    first = (document.text or "" for file in files for document in documents(source, file) if tally.usable(document))
    yield from _divide(first, fraction)
    for done in range(1, math.ceil(repeats)):
        quiet = _Tally(tally.progress)
        again = (
            document.text or "" for file in files for document in documents(source, file) if quiet.usable(document)
        )
        training = (text for split, text in _divide(again, fraction) if split == "train")
        for number, text in enumerate(training):
            if math.floor((number + 1) * repeats) - math.floor(number * repeats) > done:
                yield "train", text


def _divide(texts: Iterator[str], fraction: float) -> Iterator[tuple[SplitName, str]]:
    """Yield each text with its split: `fraction` of them held out, evenly spaced, at least one in each split.

    Of a single text the last part is held out, by characters, as nanoGPT does.
    """
    used: set[SplitName] = set()
    number = 0
    text = next(texts, None)
    while text is not None:
        following = next(texts, None)
        if following is None and number == 0:
            cut = max(1, int(len(text) * (1 - fraction)))
            yield "train", text[:cut]
            if text[cut:]:
                yield "validation", text[cut:]
            return
        held_out = math.floor((number + 1) * fraction + 0.5) > math.floor(number * fraction + 0.5)
        split: SplitName = "validation" if held_out else "train"
        if following is None and used == {split}:
            split = "train" if held_out else "validation"
        used.add(split)
        yield split, text
        text, number = following, number + 1


class _SplitWriter:
    """Tokens of one split, written as shards as they fill."""

    def __init__(self, storage: Storage, name: SplitName, tokenizer: Tokenizer, token_type: TokenType) -> None:
        self._storage = storage
        self._name = name
        self._tokenizer = tokenizer
        self._dtype = np.dtype(token_type).newbyteorder("<")
        self._end = np.array([tokenizer.end_of_document], self._dtype)
        self._parts: list[NDArray[Any]] = []
        self._waiting = 0  # bytes in parts
        self._tokens = 0
        self._bytes = 0
        self._ends = array("Q")
        self._shards: list[Shard] = []

    def add(self, text: str) -> int:
        """Append a document; return its tokens, the one that ends it included."""
        tokens = self._tokenizer.encode(text).astype(self._dtype)
        self._parts += [tokens, self._end]
        self._waiting += tokens.nbytes + self._end.nbytes
        self._tokens += len(tokens) + 1
        self._bytes += len(text) if text.isascii() else len(text.encode())
        self._ends.append(self._tokens)
        if self._waiting >= _LAYOUT.shard:
            data = self._joined()
            full = len(data) // _LAYOUT.shard * _LAYOUT.shard
            for at in range(0, full, _LAYOUT.shard):
                self._shards.append(
                    self._write(f"{self._name}-{len(self._shards):05}.bin", data[at : at + _LAYOUT.shard])
                )
            self._parts = [np.frombuffer(data[full:], self._dtype)]
            self._waiting = len(data) - full
        return len(tokens) + 1

    def finish(self) -> SplitManifest:
        """Write what is left, and the ends of the documents."""
        if self._waiting:
            self._shards.append(self._write(f"{self._name}-{len(self._shards):05}.bin", self._joined()))
        ends = np.array(self._ends, "<u8").tobytes()
        pieces = [ends[at : at + _LAYOUT.shard] for at in range(0, len(ends), _LAYOUT.shard)]
        return SplitManifest(
            tokens=self._tokens,
            documents=len(self._ends),
            bytes=self._bytes,
            shards=self._shards,
            document_ends=[self._write(f"{self._name}-ends-{i:05}.bin", piece) for i, piece in enumerate(pieces)],
        )

    def _joined(self) -> bytes:
        return np.concatenate(self._parts).tobytes()

    def _write(self, name: str, data: bytes) -> Shard:
        self._storage.write(name, data)
        return _LAYOUT.describe(name, data)


def _write_tokenizer(tokenizer: Tokenizer, storage: Storage) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        for file in Path(folder).iterdir():
            storage.write(file.name, file.read_bytes())
