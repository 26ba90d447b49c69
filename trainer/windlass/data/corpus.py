"""A prepared corpus: an immutable folder of token shards, described by the manifest that was written last.

    manifest.json                          tokenizer, counts, hashes; replaced atomically when prepared again
    data-FINGERPRINT/train-00000.bin       token ids, uint16 or uint32, little-endian
    data-FINGERPRINT/train-ends-00000.bin  end of each document, in tokens, uint64
    data-FINGERPRINT/validation-...        the same for the held-out documents
    data-FINGERPRINT/tokenizer/            tokenizer.json and its configuration

Why it is as it is: docs/decisions/0001-corpus-format.md.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray
from pydantic import BaseModel, ConfigDict, ValidationError, computed_field
from pydantic.alias_generators import to_camel

from windlass.data.blocks import Blocks, Layout, Shard
from windlass.data.cache import DiskCache
from windlass.data.tokenizers import BUILT_IN, Tokenizer, load_tokenizer
from windlass.errors import WindlassError
from windlass.ranges import ReadCounts
from windlass.storage import Storage, shown

MANIFEST = "manifest.json"
SplitName = Literal["train", "validation"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
TokenType = Literal["uint16", "uint32"]


class ManifestModel(BaseModel):
    """Base of the manifest's parts: camelCase in JSON, immutable."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, serialize_by_alias=True, frozen=True, protected_namespaces=()
    )


class TokenizerIdentity(ManifestModel):
    """The tokenizer that made the tokens."""

    name: str
    vocab_size: int
    end_of_document: int
    fingerprint: str


class SplitManifest(ManifestModel):
    """One split's counts and files."""

    tokens: int
    documents: int
    bytes: int
    """UTF-8 bytes of its text, for bits per byte."""
    shards: list[Shard]
    document_ends: list[Shard]


class LeftOut(ManifestModel):
    """Documents that were not used."""

    count: int
    names: list[str]
    """The first of them."""


class Preparation(ManifestModel):
    """How the corpus was made; no part of its id."""

    fingerprint: str
    """Hash of inputs (names, sizes, times), settings and tokenizer."""
    documents: int
    tokens: int
    not_utf8: LeftOut
    empty: LeftOut
    sources: list[dict[str, Any]]


class Manifest(ManifestModel):
    """What manifest.json holds."""

    format: Literal["windlass-corpus/1"] = "windlass-corpus/1"
    tokenizer: TokenizerIdentity
    token_type: TokenType
    layout: Layout
    folder: str
    splits: dict[SplitName, SplitManifest]
    preparation: Preparation

    @computed_field  # type: ignore[prop-decorator]
    @property
    def id(self) -> str:
        """Hash of what the corpus holds: the same data prepared elsewhere has the same id, and so the same order.

        It is written as well, so that a damaged manifest is known by it.
        """
        content = self.model_dump(
            mode="json", by_alias=True, exclude={"id": True, "folder": True, "preparation": True, "tokenizer": {"name"}}
        )
        for split in content["splits"].values():
            for shard in split["shards"] + split["documentEnds"]:
                del shard["heads"]  # follow from the rest
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]


class Split:
    """Tokens and document ends of one split; every byte was verified before it is returned."""

    def __init__(self, manifest: Manifest, name: SplitName, storage: Storage, cache: DiskCache) -> None:
        """Open nothing yet."""
        split = manifest.splits[name]
        self.tokens = split.tokens
        self.documents = split.documents
        self.bytes = split.bytes
        """UTF-8 bytes of the text."""
        self.dtype = np.dtype(manifest.token_type).newbyteorder("<")
        self.block_tokens = manifest.layout.block // self.dtype.itemsize
        self._blocks = Blocks(storage, split.shards, manifest.layout, cache)
        self._ends = Blocks(storage, split.document_ends, manifest.layout, cache)
        self._ends_per_block = manifest.layout.block // 8
        self._document_ends: NDArray[np.int64] | None = None

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return tokens [start, stop), read-only; DataCorrupt where a block does not match its hash."""
        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(f"tokens {start} to {stop} of {self.tokens}")
        return _read(self._blocks, self.block_tokens, self.dtype, start, stop)

    def windows(self, starts: NDArray[np.int64], length: int, dtype: DTypeLike = np.int64) -> NDArray[Any]:
        """Return tokens [start, start + length) of each start, [n, length]: `read` for many at once."""
        found = np.empty((len(starts), length), dtype)
        blocks: dict[int, NDArray[Any]] = {}
        for row, start in enumerate(starts.tolist()):
            number, offset = divmod(start, self.block_tokens)
            if offset + length > self.block_tokens:
                found[row] = self.read(start, start + length)
                continue
            if number not in blocks:
                blocks[number] = self._blocks[number].view(self.dtype)
            found[row] = blocks[number][offset : offset + length]
        return found

    def document_ends(self) -> NDArray[np.int64]:
        """Return where each document ends (after its end_of_document), in tokens, [documents]; read once."""
        if self._document_ends is None:
            self._document_ends = _read(self._ends, self._ends_per_block, np.dtype("<i8"), 0, self.documents)
        return self._document_ends

    def prefetch(self, blocks: Iterable[int], reach: int = 0) -> None:
        """Fetch remote blocks of `block_tokens` tokens, and `reach` tokens after each, in the background."""
        self._blocks.prefetch(blocks, reach * self.dtype.itemsize)

    def verify(self) -> Iterator[int]:
        """Check every hash; yields the bytes of each block that matched, raises DataCorrupt at one that does not."""
        yield from self._blocks.verify()
        yield from self._ends.verify()


class Corpus:
    """An opened corpus."""

    def __init__(self, uri: str, manifest: Manifest, cache: DiskCache, counts: ReadCounts) -> None:
        """Use `Corpus.open`."""
        self.uri = uri
        self.counts = counts
        """What reading it took so far."""
        self.manifest = manifest
        self.id = manifest.id
        self._storage = Storage(uri, counts=counts).child(manifest.folder)
        self._cache = cache
        self._splits: dict[str, Split] = {}

    @classmethod
    def open(cls, uri: str, cache: Path | None = None) -> "Corpus":
        """Return the corpus at `uri`; `cache` is the folder for blocks of remote ones, default WINDLASS_CACHE.

        Raises DataNotFound where there is none, DataCorrupt where its manifest cannot be read.
        """
        counts = ReadCounts()
        return cls(uri, read_manifest(Storage(uri, counts=counts)), DiskCache(cache), counts)

    def split(self, name: SplitName) -> Split:
        """Return the training or the held-out part."""
        if name not in self._splits:
            self._splits[name] = Split(self.manifest, name, self._storage, self._cache)
        return self._splits[name]

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer that made it, from the corpus itself unless it is built in."""
        name = self.manifest.tokenizer.name
        return load_tokenizer(name if name in BUILT_IN else self._storage.child("tokenizer").uri)

    def require_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Raise ConfigInvalid unless the corpus was made with this tokenizer."""
        ours = self.manifest.tokenizer
        if ours.fingerprint != tokenizer.fingerprint:
            raise WindlassError(
                "ConfigInvalid",
                f"corpus {shown(self.uri)} was made with tokenizer {ours.name} ({ours.vocab_size} tokens), not "
                f"{tokenizer.name} ({tokenizer.vocab_size} tokens); set spec.tokenizer to {ours.name} or prepare again",
            )


def read_manifest(storage: Storage) -> Manifest:
    """Return the manifest in this folder; DataNotFound where there is none, DataCorrupt where it makes no sense."""
    where = f"{shown(storage.uri)}/{MANIFEST}"
    try:
        data = storage.read(MANIFEST)
        manifest = Manifest.model_validate_json(data)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        message = f"there is no prepared corpus at {shown(storage.uri)}; make one with `windlass data prepare`"
        raise WindlassError("DataNotFound", message) from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "it"
        message = f"{where} is no manifest of a corpus ({field}: {first['msg']}); prepare it again"
        raise WindlassError("DataCorrupt", message) from error
    if json.loads(data).get("id", manifest.id) != manifest.id:  # those of before had none
        raise WindlassError("DataCorrupt", f"{where} is damaged: its contents do not match its id; prepare it again")
    return manifest


def _read(blocks: Blocks, size: int, dtype: np.dtype[Any], start: int, stop: int) -> NDArray[Any]:
    """Return items [start, stop) of blocks of `size` items."""
    pieces: list[NDArray[Any]] = []
    for number in range(start // size, -(-stop // size)):
        first, last = max(0, start - number * size), min(size, stop - number * size)
        block = blocks.beginning(number, last * dtype.itemsize) if pieces else blocks[number]
        pieces.append(block.view(dtype)[first:last])
    if not pieces:
        return np.empty(0, dtype)
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
