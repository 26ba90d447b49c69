"""One writer at a time, per run folder, checkpoints' URI and corpus.

On a local disk the operating system holds the lock (flock) and lets go of it when its holder dies. In object storage
it is a lease: an object that its holder writes anew every few seconds.
"""

import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from windlass.errors import WindlassError
from windlass.storage import PATIENCE, Storage, shown

logger = logging.getLogger(__name__)

LEASE = "lease.json"
LOCK = ".lock"
RENEW_SECONDS = 5.0
EXPIRE_SECONDS = 20.0
"""A lease that was not renewed for this long is free."""
EARLIER_HEAD_SECONDS = 120.0
"""How long a job's new head waits for a file that its earlier head has locked: when a node dies, an NFS server keeps
its locks for a lease of 90 seconds by default."""
POLL_SECONDS = 1.0
"""Between two tries to lock that file."""
JOB = "WINDLASS_JOB_UID"
"""In a pod, the environment variable that has its job's UID."""
ATTEMPT = "WINDLASS_ATTEMPT"
"""In a head pod, the environment variable that has its attempt's number."""


def whereabouts(**fields: Any) -> dict[str, Any]:
    """Who this process is, for the one that finds the lock taken.

    In a pod that is its job as well: hosts' names and process ids come again in other pods, and of one job's heads
    only the newest counts.
    """
    host, job = socket.gethostname(), os.environ.get(JOB)
    place: dict[str, Any] = {"host": host}
    if job is not None:
        place = {"host": f"{host}, job {job}", "job": job, "attempt": int(os.environ.get(ATTEMPT, "0"))}
    return {**place, "pid": os.getpid(), "since": _now(), **fields}


def lock_file(path: Path, what: str, **fields: Any) -> int:
    """Take the lock at `path` and return its file descriptor; closing all copies of it frees the lock.

    `what` names the locked thing in the error. Raises StorageInUse with the holder's whereabouts.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _parse(os.read(descriptor, 65536))
        os.close(descriptor)
        raise _in_use(what, holder) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(whereabouts(**fields)).encode(), 0)
    return descriptor


def claim_storage(uri: str, patience: float = EARLIER_HEAD_SECONDS, **fields: Any) -> "Claim":
    """Become the only run that writes checkpoints to `uri`. Raises StorageInUse with the holder's whereabouts.

    In a pod that is after `patience` seconds where an earlier head of the same job has locked a folder on a volume: if
    its node is dead, the server of the volume will let go of the lock; if it is only cut off, the lock stays.
    """
    storage = Storage(uri)
    if storage.is_local:
        return FileClaim(_lock_after_earlier_head(Path(storage.path) / LOCK, uri, patience, **fields))
    return StorageLease(storage, **fields)


def _lock_after_earlier_head(path: Path, what: str, patience: float, **fields: Any) -> int:
    deadline = time.monotonic() + patience
    waits = False
    while True:
        try:
            return lock_file(path, what, **fields)
        except WindlassError:
            if not _same_job(_parse(path.read_bytes()), whereabouts()) or time.monotonic() >= deadline:
                raise
        if not waits:
            logger.info("Waiting up to %.0f s for the lock that the job's earlier head has on %s", patience, what)
            waits = True
        time.sleep(POLL_SECONDS)


def require_held(claim: "Claim", uri: str, patience: float = PATIENCE) -> None:
    """Raise StorageInUse where the claim on `uri` is another's by now; `patience` as of `Storage`."""
    if not claim.held(patience):
        raise WindlassError(
            "StorageInUse",
            f"{shown(uri)} was taken over by a newer head of the job, or by another run while this one did not renew "
            "its lease. That one goes on; this one stops and leaves the storage to it.",
        )


class FileClaim:
    """A local folder that is locked until `release` or the end of this process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def held(self, patience: float = PATIENCE) -> bool:
        """True: only the server of a volume that this machine is cut off from gives it away; attempts fence that."""
        return True

    def release(self) -> None:
        os.close(self._descriptor)


class StorageLease:
    """A lease on a folder in object storage, renewed in the background until `release`."""

    def __init__(self, storage: Storage, **fields: Any) -> None:
        """Take it. Raises StorageInUse with the holder's whereabouts while another process renews it.

        One that an earlier head of the same job holds is taken over at once: its attempt is over.
        """
        self._storage = storage
        self._record = {"id": uuid.uuid4().hex, **whereabouts(**fields)}
        self._released = threading.Event()
        if not storage.create(LEASE, self._content()):
            self._take_over()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lease")
        self._thread.start()

    def _take_over(self) -> None:
        """Take a lease whose holder is gone: a dead process of this machine, or one not heard of for long."""
        holder = self._holder()
        succeeds = _same_job(holder, self._record) and not _is_newer(holder, self._record)
        if not (succeeds or _is_dead_here(holder)):
            deadline = time.monotonic() + EXPIRE_SECONDS
            while time.monotonic() < deadline:
                time.sleep(RENEW_SECONDS / 5)
                renewed = self._holder()
                if renewed.get("renewed") != holder.get("renewed"):
                    raise _in_use(shown(self._storage.uri), renewed)
        self._storage.write(LEASE, self._content())
        time.sleep(0.5)  # of two that take over at once, the later writer has it
        winner = self._holder()
        if self._is_lost(winner):
            raise _in_use(shown(self._storage.uri), winner)

    def held(self, patience: float = PATIENCE) -> bool:
        """Whether it is still ours, by what is in the storage now; errors as of `Storage`, with its `patience`."""
        return not self._is_lost(self._holder(patience))

    def _is_lost(self, holder: dict[str, Any]) -> bool:
        """Whether it is the holder's now. What an earlier head wrote late, while it was cut off, does not count."""
        return holder.get("id") != self._record["id"] and not _is_newer(self._record, holder)

    def _holder(self, patience: float = PATIENCE) -> dict[str, Any]:
        try:
            return _parse(Storage(self._storage.uri, patience).read(LEASE))
        except FileNotFoundError:
            return {}

    def _content(self) -> bytes:
        return json.dumps({**self._record, "renewed": _now()}).encode()

    def _renew(self) -> None:
        while not self._released.wait(RENEW_SECONDS):
            try:
                if self._is_lost(self._holder()):
                    return  # taken over while this machine slept; attempts fence what we still write
                self._storage.write(LEASE, self._content())
            except WindlassError as error:
                logger.warning("The lease on %s is not renewed: %s", shown(self._storage.uri), error)

    def release(self) -> None:
        """Free it at once. Only a lease that is still ours is deleted; where the storage is away, it expires."""
        self._released.set()
        self._thread.join(EXPIRE_SECONDS)
        try:
            if self._holder(EXPIRE_SECONDS).get("id") == self._record["id"]:
                self._storage.delete(LEASE)
        except (WindlassError, OSError) as error:
            logger.warning("The lease on %s is not freed, and expires: %s", shown(self._storage.uri), error)


Claim = FileClaim | StorageLease


def _same_job(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.get("job") is not None and one["job"] == other.get("job")


def _is_newer(head: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether these are two heads of one job, the other of an earlier attempt."""
    return _same_job(head, other) and head.get("attempt", 0) > other.get("attempt", 0)


def _is_dead_here(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that does not run any more."""
    if holder.get("host") != socket.gethostname():
        return not holder
    try:
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _parse(content: bytes) -> dict[str, Any]:
    try:
        holder = json.loads(content)
    except ValueError:
        return {}  # it is being written
    return holder if isinstance(holder, dict) else {}


def _in_use(what: str, holder: dict[str, Any]) -> WindlassError:
    who = (
        f"process {holder['pid']} on {holder['host']}, since {holder['since']}, run {holder.get('run', 'unknown')} "
        f"in {holder.get('folder', 'unknown')}"
        if {"pid", "host", "since"} <= holder.keys()
        else "a process that is just starting"
    )
    return WindlassError(
        "StorageInUse", f"{what} is in use by {who}. Wait for it, stop it, or give this run another name or URI."
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
