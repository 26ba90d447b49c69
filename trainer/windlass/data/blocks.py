"""Verified blocks of a corpus's files: mapped where they are local, fetched and cached on disk where they are not.

No byte leaves here before its block matched its hash. A block that does not match is fetched again, once; then the run
stops.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash

from windlass.data.ahead import ending, in_background
from windlass.data.cache import Bytes, DiskCache, mapped, matches
from windlass.errors import WindlassError
from windlass.storage import Storage, shown

_OPEN = 16
"""Pieces that a split keeps open: two windows of the shuffle, and the heads of their neighbours."""
_HEADS = 64
"""A block's head is this part of it: 128 KiB of 8 MiB."""

_log = logging.getLogger(__name__)
_fetching = threading.BoundedSemaphore(8)  # of a process, ahead of need: more would only take memory


@dataclass(frozen=True)
class Shard:
    """A file of a corpus; all but the last of a split are of one size."""

    name: str
    size: int
    """Bytes."""
    blocks: list[str]
    """xxh3_64 of each block, in hexadecimal."""
    heads: list[str] = field(default_factory=list)
    """The same of each block's head, which a sample that starts in the block before reaches into; empty: not known."""


@dataclass(frozen=True)
class Layout:
    """Sizes in bytes of all blocks and shards of a corpus, but the last of a split."""

    block: int = 8 << 20
    shard: int = 64 << 20

    @property
    def head(self) -> int:
        """Bytes of a block's head."""
        return self.block // _HEADS

    def hashes(self, data: bytes) -> list[str]:
        """Return the hash of each block of a shard's bytes."""
        return [xxhash.xxh3_64_hexdigest(data[at : at + self.block]) for at in range(0, len(data), self.block)]

    def describe(self, name: str, data: bytes) -> Shard:
        """Return what the manifest says of a shard of these bytes."""
        heads = [xxhash.xxh3_64_hexdigest(data[at : at + self.head]) for at in range(0, len(data), self.block)]
        return Shard(name, len(data), self.hashes(data), heads)


class Piece(NamedTuple):
    """A block, or its head."""

    number: int
    is_head: bool = False


class Blocks:
    """The blocks of consecutive shards in one folder, by number. Safe to share between threads."""

    def __init__(self, storage: Storage, shards: list[Shard], layout: Layout, cache: DiskCache) -> None:
        """Open nothing yet. `cache` is used when the storage is remote."""
        self._storage = storage
        self._layout = layout
        self._cache = cache
        self._shards = shards
        self._files: dict[str, Bytes] = {}
        self._verified: set[int] = set()
        self._open: OrderedDict[Piece, Bytes] = OrderedDict()
        self._coming: dict[Piece, Future[Bytes]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return sum(len(shard.blocks) for shard in self._shards)

    def __getitem__(self, number: int) -> Bytes:
        """Return the block's bytes, read-only; DataCorrupt if they match their hash neither at first nor again."""
        return self._local(number) if self._storage.is_local else self._remote(Piece(number))

    def beginning(self, number: int, size: int) -> Bytes:
        """Return at least the block's first `size` bytes, the whole of it only where that is cheap or needed."""
        if self._storage.is_local or Piece(number) in self._open or not self._has_head(number, size):
            return self[number]
        return self._remote(Piece(number, is_head=True))

    def verify(self) -> Iterator[int]:
        """Read every block from storage, past the cache; yields the bytes of each that matched its hash."""
        for number in range(len(self)):
            yield len(self._fetch(Piece(number)))

    def prefetch(self, numbers: Iterable[int], reach: int = 0) -> None:
        """Fetch remote blocks and the first `reach` bytes of those after them, each in a thread of its own.

        Failures are left to the read that needs the block.
        """
        if self._storage.is_local:
            return
        blocks = [Piece(number) for number in numbers]
        if reach:
            after = [piece.number + 1 for piece in blocks if piece.number + 1 < len(self)]
            blocks += [Piece(number, self._has_head(number, reach)) for number in after]
        for piece in blocks:
            with self._lock:
                if piece in self._open or piece in self._coming or Piece(piece.number) in self._coming:
                    continue
                coming = self._coming[piece] = Future()
            in_background(self._prefetch, piece, coming)

    def _prefetch(self, piece: Piece, coming: "Future[Bytes]") -> None:
        with _fetching:
            if not ending.is_set():
                self._bring(piece, coming)
                return
        coming.cancel()

    def _remote(self, piece: Piece) -> Bytes:
        with self._lock:
            if piece in self._open:
                self._open.move_to_end(piece)
                return self._open[piece]
            coming = self._coming.get(piece)
            mine = coming is None
            if coming is None:
                coming = self._coming[piece] = Future()
        if mine:
            self._bring(piece, coming)
        return coming.result()

    def _bring(self, piece: Piece, coming: "Future[Bytes]") -> None:
        shard, block = self._place(piece.number)
        digest = (shard.heads if piece.is_head else shard.blocks)[block]
        name = f"{Path(self._storage.path).name}-{shard.name}-{block}{'-head' * piece.is_head}-{digest}"
        try:
            data = self._cache.get(name, digest, lambda: self._fetch(piece), self._storage.counts)
        except BaseException as error:  # noqa: BLE001 - raised again where the block is needed
            with self._lock:
                del self._coming[piece]
            coming.set_exception(error)
            return
        with self._lock:
            self._open[piece] = data
            while len(self._open) > _OPEN:
                self._open.popitem(last=False)
            del self._coming[piece]
        coming.set_result(data)

    def _has_head(self, number: int, size: int) -> bool:
        return size <= self._layout.head and bool(self._place(number)[0].heads)

    def _place(self, number: int) -> tuple[Shard, int]:
        shard, block = divmod(number, self._layout.shard // self._layout.block)
        return self._shards[shard], block

    def _range(self, shard: Shard, block: int, is_head: bool = False) -> tuple[int, int]:
        start = block * self._layout.block
        return start, min(start + (self._layout.head if is_head else self._layout.block), shard.size)

    def _local(self, number: int) -> Bytes:
        shard, block = self._place(number)
        if shard.name not in self._files:
            try:
                self._files[shard.name] = mapped(Path(self._storage.path, shard.name))
            except FileNotFoundError as error:
                raise self._missing(shard) from error
        start, stop = self._range(shard, block)
        data = self._files[shard.name][start:stop]
        if number not in self._verified:
            if not matches(data, shard.blocks[block]):
                return np.frombuffer(self._fetch(Piece(number)), np.uint8)
            self._verified.add(number)
        return data

    def _fetch(self, piece: Piece) -> bytes:
        """Read a piece from storage, twice if need be, until it matches its hash."""
        shard, block = self._place(piece.number)
        start, stop = self._range(shard, block, piece.is_head)
        digest = (shard.heads if piece.is_head else shard.blocks)[block]
        for _ in range(2):
            problem = "does not match its hash"
            try:
                data = self._storage.read(shard.name, start, stop)
                if matches(data, digest):
                    return data
                self._storage.counts.add(verification_failures=1)
            except FileNotFoundError as error:
                raise self._missing(shard) from error
            except OSError as error:  # such as a range beyond the end of a truncated object
                problem = f"cannot be read ({error})"
            _log.warning("%s: block %d %s", self._shown(shard), block, problem)
        raise self._corrupt(shard, block)

    def _shown(self, shard: Shard) -> str:
        return f"{shown(self._storage.uri)}/{shard.name}"

    def _missing(self, shard: Shard) -> WindlassError:
        return WindlassError("DataNotFound", f"{self._shown(shard)} is gone; restore it or prepare the corpus again")

    def _corrupt(self, shard: Shard, block: int) -> WindlassError:
        start, stop = self._range(shard, block)
        where = f"block {block} (bytes {start} to {stop})"
        message = f"{self._shown(shard)}: {where} does not match its hash, read twice"
        return WindlassError("DataCorrupt", f"{message}; restore the file, or delete the corpus and prepare it again")
