"""Verified copies of remote blocks on this machine's disk, shared by all processes of all jobs.

It is safe against their death at any moment: a block appears by rename, a lock dies with its process, and what is read
is checked against its hash again.
"""

import contextlib
import fcntl
import logging
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from windlass.ranges import ReadCounts
from windlass.storage import PARTIAL

Bytes = NDArray[np.uint8]

_LOCKS = 1024  # files; blocks that happen to share one wait for each other
_LOCK_PATIENCE = 60.0  # seconds for a process that fetches the same block, and may hang
_ABANDONED = 600.0  # seconds after which a half-written file belongs to a dead process

_log = logging.getLogger(__name__)


class DiskCache:
    """Blocks by name; beyond `limit` bytes the least recently used go. A limit of 0 keeps nothing: RAM only."""

    def __init__(self, folder: Path | None = None, limit: int | None = None) -> None:
        """Default folder: WINDLASS_CACHE or ~/.cache/windlass; default limit: WINDLASS_CACHE_BYTES or 20 GiB."""
        self.folder = (folder or Path(os.environ.get("WINDLASS_CACHE", "~/.cache/windlass")).expanduser()) / "blocks"
        self.limit = int(os.environ.get("WINDLASS_CACHE_BYTES", 20 << 30)) if limit is None else limit
        self._unswept = self.limit  # bytes written since the last sweep; the first write sweeps
        self._warned = False

    def get(self, name: str, digest: str, fetch: Callable[[], bytes], counts: ReadCounts) -> Bytes:
        """Return the cached block if it matches its hash; fetch() it otherwise, in one process at a time."""
        if not self.limit:
            return np.frombuffer(fetch(), np.uint8)
        path = self.folder / name
        cached = _cached(path, digest, counts)
        if cached is None:
            with self._locked(name):
                cached = _cached(path, digest, counts)  # another process may have been faster
                if cached is None:
                    counts.add(cache_misses=1)
                    data = fetch()
                    # The mapped file is memory that the machine can take back and that processes share.
                    stored = self._store(path, data)
                    return np.frombuffer(data, np.uint8) if stored is None else stored
        counts.add(cache_hits=1)
        return cached

    def _store(self, path: Path, data: bytes) -> Bytes | None:
        partial = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}{PARTIAL}")
        try:
            partial.write_bytes(data)
            stored = mapped(partial)
            partial.rename(path)
            self._unswept += len(data)
            if self._unswept > self.limit // 16:
                self._unswept = 0
                self._sweep()
            return stored
        except OSError as error:
            self._warn(error)
            return None
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            _log.warning("the cache %s cannot be written, going on without: %s", self.folder, error)

    def _sweep(self) -> None:
        """Delete what was used longest ago, until the rest fits; readers of a deleted block keep their mapping."""
        abandoned = time.time_ns() - int(_ABANDONED * 1e9)
        total = 0
        for used, size, path in sorted(_entries(self.folder), reverse=True):
            total += size
            if total > self.limit or (path.endswith(PARTIAL) and used < abandoned):
                Path(path).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Hold the block's lock; the kernel releases it should this process die, and one that hangs is waited out."""
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(open(self.folder / f".lock-{zlib.crc32(name.encode()) % _LOCKS}", "w"))
                _lock(file.fileno())
            except OSError as error:
                self._warn(error)
            yield


def matches(data: Any, digest: str) -> bool:
    """Return whether the bytes have this xxh3_64 hash, in hexadecimal."""
    return xxhash.xxh3_64_hexdigest(data) == digest


def mapped(path: Path) -> Bytes:
    """Return a file's bytes as read-only memory that is the page cache's."""
    if path.stat().st_size == 0:
        return np.empty(0, np.uint8)  # cannot be mapped
    return np.memmap(path, np.uint8, mode="r").view(np.ndarray)


def _cached(path: Path, digest: str, counts: ReadCounts) -> Bytes | None:
    try:
        data = mapped(path)
        os.utime(path)  # the order in which blocks leave the cache
    except OSError:
        return None
    if matches(data, digest):
        return data
    counts.add(verification_failures=1)
    _log.warning("%s does not match its hash; fetching it again", path)
    return None


def _entries(folder: Path) -> Iterator[tuple[int, int, str]]:
    with os.scandir(folder) as files:
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                if not file.name.startswith(".lock"):
                    status = file.stat()
                    yield status.st_mtime_ns, status.st_size, file.path


def _lock(file: int) -> None:
    until = time.monotonic() + _LOCK_PATIENCE
    pause = 0.001
    while time.monotonic() < until:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
