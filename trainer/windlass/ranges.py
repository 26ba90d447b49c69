"""Byte ranges of remote files, in parallel parts; a part that is late is asked for again, and the first answer counts.

S3 is read through obstore where that is installed (the extra `obstore`), with the credentials and settings that s3fs
would use; everything else through fsspec. obstore is only the faster way: whatever it cannot read, fsspec is asked for,
whose errors `windlass.storage` knows.
"""

import asyncio
import atexit
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import fsspec
from fsspec.asyn import get_loop, sync

PART = 4 << 20
"""Bytes asked for in one request: large enough that its latency weighs little, small enough that four run at once."""

_EARLIEST_HEDGE = 0.25  # seconds: what is faster is never worth a second request
_FIRST_HEDGE = 2.0  # seconds, before enough parts have been timed
_HEDGES = 0.05  # of all parts at most, so that a store that is slow for everybody does not get twice the load
_FAILURES = 3  # of obstore in a row, where fsspec succeeds, after which it is given up
_CREDENTIALS_FOR = timedelta(minutes=15)
_LAST_READS = 1.0  # seconds that they may take when the process ends
_AFTER_ANSWERS = 0.02  # seconds until obstore's threads have let go of an answer that is there

_log = logging.getLogger(__name__)


@dataclass
class ReadCounts:
    """What reading took, since the process began with it. Safe to add to from any thread."""

    bytes_read: int = 0
    """Bytes that arrived from remote storage."""
    retries: int = 0
    """Calls tried again, and parts that obstore could not read."""
    hedges: int = 0
    """Parts asked for a second time because the first answer was late."""
    cache_hits: int = 0
    """Blocks found in the cache."""
    cache_misses: int = 0
    verification_failures: int = 0
    """Blocks, from storage or from the cache, that did not match their hash."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, **amounts: int) -> None:
        """Add to the counts by name."""
        with self._lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)

    def amounts(self) -> dict[str, int]:
        """Return the counts by name."""
        return {name: amount for name, amount in vars(self).items() if name != "_lock"}


FileSystem = Callable[[], fsspec.AbstractFileSystem]
"""Makes a file system where there is none yet; that of S3 takes half a second of imports and settings."""


def read(fs: FileSystem, protocol: str, path: str, start: int | None, end: int | None, counts: ReadCounts) -> bytes:
    """Return the bytes [start, end) of a file, fewer where it ends before; errors are those of `fs()`."""
    bucket, _, key = path.partition("/")
    store = _s3_store(bucket, os.getpid()) if protocol == "s3" else None
    if store is not None and store.failures < _FAILURES:
        try:
            return _counted(sync(get_loop(), _read, partial(store.read, key), start, end, counts), counts)
        except (store.errors, OSError, ValueError) as error:
            counts.add(retries=1)
            failure = error
    if fs().async_impl:
        # A web server may know no ranges, and send the whole file for each.
        part = sys.maxsize if protocol in ("http", "https") else PART
        data = sync(
            fs().loop, _read, lambda start, end: fs()._cat_file(path, start=start, end=end), start, end, counts, part
        )
    else:
        data = fs().cat_file(path, start=start, end=end)
    if store is not None and store.failures < _FAILURES:
        store.failures += 1  # it was not the file, nor the server
        if store.failures == _FAILURES:
            _log.warning("obstore cannot read s3://%s, going on with s3fs: %s", bucket, type(failure).__name__)
    return _counted(data, counts)


def _counted(data: bytes, counts: ReadCounts) -> bytes:
    counts.add(bytes_read=len(data))
    return data


async def _read(
    cat: Callable[[int | None, int | None], Awaitable[bytes]],
    start: int | None,
    end: int | None,
    counts: ReadCounts,
    part: int = PART,
) -> bytes:
    task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]  # there is one in a coroutine
    _under_way.add(task)
    try:
        if start is None or end is None or end - start <= part:
            return bytes(await _hedged(partial(cat, start, end), counts))
        asked = [partial(cat, at, min(at + part, end)) for at in range(start, end, part)]
        return b"".join(await asyncio.gather(*(_hedged(ask, counts) for ask in asked)))
    finally:
        _under_way.discard(task)


_under_way: set[asyncio.Task[Any]] = set()


@atexit.register
def _end_reads() -> None:
    """Let reads end before the interpreter does: a thread of obstore that is in Python then aborts the process."""
    if _under_way:
        sync(get_loop(), _ended)
    if _has_threads:
        time.sleep(_AFTER_ANSWERS)


async def _ended() -> None:
    reads = list(_under_way)
    for task in (await asyncio.wait(reads, timeout=_LAST_READS))[1] if reads else ():
        task.cancel()
    await asyncio.gather(*reads, return_exceptions=True)


class _Obstore:
    """A bucket as obstore reads it."""

    def __init__(self, store: Any) -> None:
        import obstore
        from obstore.exceptions import BaseError

        self._obstore = obstore
        self._store = store
        self.errors = BaseError
        self.failures = 0
        """In a row, where fsspec had none."""

    async def read(self, key: str, start: int | None, end: int | None) -> bytes:
        if start is None or end is None:
            data = await (await self._obstore.get_async(self._store, key)).bytes_async()
        else:
            data = await self._obstore.get_range_async(self._store, key, start=start, end=end)
        self.failures = 0
        return data  # type: ignore[return-value]  # a buffer like bytes


class _Latencies:
    """How long parts take, hence when one is late; and how many may be asked for twice."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=100)
        self._allowed = 2.0

    def note(self, seconds: float, size: int) -> None:
        if size >= PART // 2:
            self._recent.append(seconds)
        self._allowed = min(self._allowed + _HEDGES, 10.0)

    def late(self) -> float:
        """Return the seconds after which a part is late: slower than 95 % of those before."""
        if len(self._recent) < 20:
            return _FIRST_HEDGE
        return max(_EARLIEST_HEDGE, sorted(self._recent)[len(self._recent) * 95 // 100])

    def take(self) -> bool:
        """Return whether a part may be asked for once more; if so, it counts."""
        if self._allowed < 1:
            return False
        self._allowed -= 1
        return True


_latencies = _Latencies()


async def _hedged(ask: Callable[[], Awaitable[bytes]], counts: ReadCounts) -> bytes:
    """Return ask()'s answer, or that of a second ask() should it come first."""
    start = time.monotonic()
    tasks = {asyncio.ensure_future(ask())}
    try:
        done, waiting = await asyncio.wait(tasks, timeout=_latencies.late())
        if waiting and _latencies.take():
            counts.add(hedges=1)
            tasks |= {asyncio.ensure_future(ask())}
        while True:
            done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            answered = next((task for task in done if not task.exception()), None)
            if answered or not waiting:
                data = (answered or done.pop()).result()
                _latencies.note(time.monotonic() - start, len(data))
                return data
            tasks = waiting  # one failed; the other may not
    finally:
        for task in tasks:
            task.cancel()


def forget_stores() -> None:
    """Make later reads connect anew, with the environment's credentials and endpoint of then."""
    _s3_store.cache_clear()


@lru_cache
def _s3_store(bucket: str, process: int) -> _Obstore | None:
    """Return obstore's client of a bucket, or None where fsspec has to do; configured as botocore and so s3fs are."""
    global _has_threads
    try:
        from botocore.session import Session
        from obstore.store import S3Store
    except ImportError:
        return None
    if _lost_threads:
        return None
    session = Session()
    profile = session.get_scoped_config()
    if "services" in profile:  # an endpoint for S3 alone, which only botocore finds
        return None
    options: Any = {}
    if endpoint := _first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") or profile.get("endpoint_url"):
        options["endpoint"] = endpoint
    if region := _first("AWS_REGION", "AWS_DEFAULT_REGION") or profile.get("region"):
        options["region"] = region
    client: Any = {"allow_http": True, "connect_timeout": "10s", "read_timeout": "60s", "timeout": "1h"}
    if authority := os.environ.get("AWS_CA_BUNDLE"):
        client["root_certificate"] = Path(authority).read_bytes()
    if anonymous():
        options["skip_signature"] = True
    elif (credentials := session.get_credentials()) is None:
        return None
    else:
        options["credential_provider"] = _Credentials(credentials)
    _has_threads = True
    return _Obstore(S3Store(bucket, client_options=client, retry_config={"max_retries": 0}, **options))


_has_threads = _lost_threads = False


def _forked() -> None:
    global _lost_threads
    _lost_threads = _has_threads  # obstore's do not survive a fork
    _under_way.clear()


os.register_at_fork(after_in_child=_forked)


def anonymous() -> bool:
    """Return whether S3 is read without credentials: AWS_NO_SIGN_REQUEST, as `aws --no-sign-request` does it."""
    return os.environ.get("AWS_NO_SIGN_REQUEST", "").lower() in ("1", "true", "yes")


class _Credentials:
    """Gives obstore the credentials of botocore's chain, which renews them."""

    def __init__(self, credentials: Any) -> None:
        self._credentials = credentials

    def __call__(self) -> dict[str, Any]:
        frozen = self._credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + _CREDENTIALS_FOR,
        }


def _first(*names: str) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)
