"""Verified blocks of a corpus's files: mapped where they are local, fetched and cached on disk where they are not.

No byte leaves here before its block matched its hash. A block that does not match is fetched again, once; then the run
stops. The cache is shared by all processes of a machine and safe against their death: blocks appear by rename.
"""

import contextlib
import fcntl
import logging
import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from windlass.errors import WindlassError
from windlass.storage import PARTIAL, Storage, shown

Bytes = NDArray[np.uint8]

_OPEN_BLOCKS = 16
"""Remote blocks that a split keeps open: two windows of the shuffle, and their neighbours."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """A file of a corpus; all but the last of a split are of one size."""

    name: str
    size: int
    """Bytes."""
    blocks: list[str]
    """xxh3_64 of each block, in hexadecimal."""


@dataclass(frozen=True)
class Layout:
    """Sizes in bytes of all blocks and shards of a corpus, but the last of a split."""

    block: int = 8 << 20
    shard: int = 64 << 20

    def hashes(self, data: bytes) -> list[str]:
        """Return the hash of each block of a shard's bytes."""
        return [xxhash.xxh3_64_hexdigest(data[at : at + self.block]) for at in range(0, len(data), self.block)]


class Blocks:
    """The blocks of consecutive shards in one folder, by number. Safe to share between threads."""

    def __init__(self, storage: Storage, shards: list[Shard], layout: Layout, cache: "DiskCache") -> None:
        """Open nothing yet. `cache` is used when the storage is remote."""
        self._storage = storage
        self._layout = layout
        self._cache = cache
        self._shards = shards
        self._files: dict[str, Bytes] = {}
        self._verified: set[int] = set()
        self._open: OrderedDict[int, Bytes] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return sum(len(shard.blocks) for shard in self._shards)

    def __getitem__(self, number: int) -> Bytes:
        """Return the block's bytes, read-only; DataCorrupt if they match their hash neither at first nor again."""
        shard, block = self._place(number)
        if self._storage.is_local:
            return self._local(shard, block, number)
        with self._lock:
            if number in self._open:
                self._open.move_to_end(number)
                return self._open[number]
        data = self._remote(shard, block, self._storage)
        with self._lock:
            self._open[number] = data
            while len(self._open) > _OPEN_BLOCKS:
                self._open.popitem(last=False)
        return data

    def verify(self) -> Iterator[int]:
        """Read every block from storage, past the cache; yields the bytes of each that matched its hash."""
        for number in range(len(self)):
            shard, block = self._place(number)
            yield len(self._fetch(shard, block, self._storage))

    def prefetch(self, numbers: Iterable[int]) -> None:
        """Fetch remote blocks, each in a thread of its own; failures are left to the read that needs the block."""
        if self._storage.is_local:
            return
        for number in numbers:
            if number < len(self):
                threading.Thread(target=self._try, args=(number,), daemon=True).start()

    def _try(self, number: int) -> None:
        shard, block = self._place(number)
        with contextlib.suppress(WindlassError, OSError):
            self._remote(shard, block, Storage(self._storage.uri, patience=0))

    def _place(self, number: int) -> tuple[Shard, int]:
        shard, block = divmod(number, self._layout.shard // self._layout.block)
        return self._shards[shard], block

    def _range(self, shard: Shard, block: int) -> tuple[int, int]:
        return block * self._layout.block, min((block + 1) * self._layout.block, shard.size)

    def _local(self, shard: Shard, block: int, number: int) -> Bytes:
        if shard.name not in self._files:
            try:
                self._files[shard.name] = _map(Path(self._storage.path, shard.name))
            except FileNotFoundError as error:
                raise self._missing(shard) from error
        start, stop = self._range(shard, block)
        data = self._files[shard.name][start:stop]
        if number not in self._verified:
            if not _matches(data, shard.blocks[block]):
                return np.frombuffer(self._fetch(shard, block, self._storage), np.uint8)
            self._verified.add(number)
        return data

    def _remote(self, shard: Shard, block: int, storage: Storage) -> Bytes:
        name = f"{Path(storage.path).name}-{shard.name}-{block}-{shard.blocks[block]}"
        return self._cache.get(name, shard.blocks[block], lambda: self._fetch(shard, block, storage))

    def _fetch(self, shard: Shard, block: int, storage: Storage) -> bytes:
        """Read a block from storage, twice if need be, until it matches its hash."""
        start, stop = self._range(shard, block)
        for _ in range(2):
            problem = "does not match its hash"
            try:
                data = storage.read(shard.name, start, stop)
                if _matches(data, shard.blocks[block]):
                    return data
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


class DiskCache:
    """Verified copies of remote blocks on this machine's disk; beyond `limit` bytes the least recently used go."""

    def __init__(self, folder: Path | None = None, limit: int | None = None) -> None:
        """Default folder: WINDLASS_CACHE or ~/.cache/windlass; default limit: WINDLASS_CACHE_BYTES or 20 GiB."""
        self.folder = (folder or Path(os.environ.get("WINDLASS_CACHE", "~/.cache/windlass")).expanduser()) / "blocks"
        self.limit = limit or int(os.environ.get("WINDLASS_CACHE_BYTES", 20 << 30))
        self._unswept = self.limit  # bytes written since the last sweep; the first write sweeps
        self._warned = False

    def get(self, name: str, digest: str, fetch: Callable[[], bytes]) -> Bytes:
        """Return the cached block if it matches its hash; fetch() it otherwise, in one process at a time."""
        path = self.folder / name
        cached = _cached(path, digest)
        if cached is None:
            with self._locked(name):
                cached = _cached(path, digest)  # another process may have been faster
                if cached is None:
                    data = fetch()
                    self._store(path, data)
                    cached = _cached(path, digest)
                    return np.frombuffer(data, np.uint8) if cached is None else cached
        return cached

    def _store(self, path: Path, data: bytes) -> None:
        partial = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}{PARTIAL}")
        try:
            partial.write_bytes(data)
            partial.rename(path)
            self._unswept += len(data)
            if self._unswept > self.limit // 16:
                self._unswept = 0
                self._sweep()
        except OSError as error:
            self._warn(error)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            _log.warning("the cache %s cannot be written, going on without: %s", self.folder, error)

    def _sweep(self) -> None:
        """Delete what was used longest ago, until the rest fits; readers of a deleted block keep their mapping."""
        entries = sorted(_entries(self.folder), reverse=True)
        total = 0
        for _, size, path in entries:
            total += size
            if total > self.limit:
                Path(path).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Hold the block's lock; the kernel releases it should this process die."""
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(open(self.folder / f".lock-{zlib.crc32(name.encode()) % 64}", "w"))
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                self._warn(error)
            yield


def _cached(path: Path, digest: str) -> Bytes | None:
    try:
        data = _map(path)
        os.utime(path)  # the order in which blocks leave the cache
    except OSError:
        return None
    return data if _matches(data, digest) else None


def _entries(folder: Path) -> Iterator[tuple[int, int, str]]:
    with os.scandir(folder) as files:
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                if not file.name.startswith(".lock"):
                    status = file.stat()
                    yield status.st_mtime_ns, status.st_size, file.path


def _map(path: Path) -> Bytes:
    if path.stat().st_size == 0:
        return np.empty(0, np.uint8)  # cannot be mapped
    return np.memmap(path, np.uint8, mode="r").view(np.ndarray)


def _matches(data: Any, digest: str) -> bool:
    return xxhash.xxh3_64_hexdigest(data) == digest
