"""A folder at any URI: small reads and atomic writes that outlast a storage's bad minutes.

Local folders are used directly, everything else through fsspec (s3://, gs://, https://, ...). What the storage refuses
becomes a `WindlassError` with one clear line; what is only late (refused connections, timeouts, 5xx, SlowDown) is tried
again for `patience` seconds. S3 is configured as everywhere: AWS_ENDPOINT_URL, AWS_REGION, AWS_CA_BUNDLE and the usual
chain of credentials. Nothing here logs or raises a URI's user, password or query.
"""

import contextlib
import difflib
import errno
import logging
import os
import random
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from windlass import ranges
from windlass.errors import WindlassError
from windlass.ranges import ReadCounts

PATIENCE = 300.0
"""Seconds that a storage may be away before a call gives up."""
PARTIAL = ".partial"
"""Ending of a local file that is being written; never listed."""

_UPLOAD_CHUNK = 16 << 20  # bytes; 4 at a time, so an upload holds 64 MiB
_LONGEST_WAIT = 5.0  # seconds between two tries: a storage that is back is noticed soon
_CERTIFICATE_ERRORS = {"SSLError", "SSLCertVerificationError", "ClientConnectorCertificateError"}
_CREDENTIAL_ERRORS = {"PermissionError", "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"}
_CREDENTIAL_CODES = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
_CREDENTIAL_CODES |= {"XAdminUserNotFound"}  # versitygw's, with status 404
_TRANSIENT_ERRORS = {
    *("ConnectionError", "TimeoutError", "HTTPClientError", "IncompleteRead", "IncompleteReadError"),
    *("ResponseParserError", "ClientConnectionError", "ClientPayloadError", "ServerDisconnectedError"),
}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}

_log = logging.getLogger(__name__)
_jitter = random.Random()  # its own: waiting must not move the user's random numbers
T = TypeVar("T")


def retry(
    operation: Callable[[], T], uri: str, patience: float = PATIENCE, again: Callable[[], None] = lambda: None
) -> T:
    """Return operation(), tried again with growing, jittered waits while the storage at `uri` is late.

    `again` is called before each further try.

    The operation must be safe to repeat. Raises AccessDenied, DataNotFound (no such bucket), StorageFull, or
    StorageUnavailable after `patience` seconds; every other error, FileNotFoundError too, passes as it is.
    """
    first_failure: float | None = None
    delay = 0.2
    while True:
        try:
            result = operation()
        except Exception as error:
            if refused := refusal(error, uri):
                raise refused from error
            # When the interpreter ends it closes connections, and nobody waits any more.
            if not _is_transient(error) or not threading.main_thread().is_alive():
                raise
            now = time.monotonic()
            left = (first_failure or now) + patience - now
            if left <= 0:
                message = (
                    f"{shown(uri)} did not answer for {patience:.0f} s; check endpoint and network: {_line(error)}"
                )
                raise WindlassError("StorageUnavailable", message) from error
            if first_failure is None:
                first_failure = now
                _log.warning("%s does not answer, trying for %.0f s: %s", shown(uri), patience, _line(error))
            time.sleep(min(delay * _jitter.uniform(0.5, 1.5), left))
            delay = min(2 * delay, _LONGEST_WAIT)
            again()
        else:
            if first_failure is not None:
                _log.warning("%s answers again after %.1f s", shown(uri), time.monotonic() - first_failure)
            return result


def shown(uri: str) -> str:
    """Return the URI as people may see it: without user, password and query."""
    return re.sub(r"^(\w+://)[^/@]*@", r"\1", uri).split("?")[0] if "://" in uri else uri


def forget_connections() -> None:
    """Make later calls connect anew, with the credentials and endpoints that the environment has then."""
    _filesystem.cache_clear()
    ranges.forget_stores()


class Storage:
    """A folder at a URI: files by relative name, written whole or not at all. Safe to share between threads."""

    def __init__(self, uri: str, patience: float = PATIENCE, counts: ReadCounts | None = None) -> None:
        """Name the folder; nothing is touched yet. ConfigInvalid for a protocol that does not exist here."""
        self.uri = uri
        self.patience = patience
        self.counts = counts or ReadCounts()
        """What was read through this storage and its children."""
        self._protocol = _protocol(uri)
        self.is_local = self._protocol == "file"
        self.path: str = (
            os.path.abspath(os.path.expanduser(re.sub("^(file|local)://", "", uri))) if self.is_local else ""
        )
        if self._protocol == "s3":  # known without s3fs, whose import takes half a second
            self.path = uri.partition("://")[2].rstrip("/")
        self.path = self.path or self.fs._strip_protocol(uri).rstrip("/")

    def __repr__(self) -> str:
        return f"Storage({shown(self.uri)!r})"

    def __reduce__(self) -> tuple[type["Storage"], tuple[str, float]]:
        return Storage, (self.uri, self.patience)  # in another process it counts for itself

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        """The file system under it, one per process."""
        return _filesystem(self._protocol, os.getpid())

    def call(self, operation: Callable[[], T]) -> T:
        """Return operation(), with this storage's patience and words: see `retry`."""
        return retry(operation, self.uri, self.patience, lambda: self.counts.add(retries=1))

    def child(self, name: str) -> "Storage":
        """Return the folder `name` in this one."""
        return Storage(f"{self.uri.rstrip('/')}/{name}", self.patience, self.counts)

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return the file's bytes [start, end), fewer where it ends before."""
        if self.is_local:
            with self.translated(), open(self._at(name), "rb") as file:
                file.seek(start or 0)
                return file.read() if end is None else file.read(end - (start or 0))
        data = self.call(lambda: ranges.read(lambda: self.fs, self._protocol, self._at(name), start, end, self.counts))
        if end is not None and len(data) > end - (start or 0):
            return data[start:end]  # a web server that knows no ranges sent the whole file
        return data

    def write(self, name: str, data: bytes) -> None:
        """Write the file; readers see the old one or the new one, on a power cut too."""
        if self.is_local:
            with self.translated(), self._partial(name) as partial:
                _write_through(partial, data)
                _replace(partial, self._at(name))
        else:
            self.call(lambda: self.fs.pipe_file(self._at(name), data))

    def create(self, name: str, data: bytes) -> bool:
        """Write the file only if there is none of that name; of several writers exactly one gets True."""
        if self.is_local:
            with self.translated(), self._partial(name) as partial:
                _write_through(partial, data)
                return _link(partial, self._at(name))
        writer = uuid.uuid4().hex
        options = {"Metadata": {"windlass-writer": writer}} if self._protocol == "s3" else {}
        try:
            self.call(lambda: self.fs.pipe_file(self._at(name), data, mode="create", **options))
        except FileExistsError:
            if not options:
                return False
            # An answer that was lost is asked again, and finds its own object.
            written_by: object = self.call(lambda: self.fs.metadata(self._at(name))).get("windlass-writer")
            return written_by == writer
        return True

    def exists(self, name: str) -> bool:
        """Return whether there is a file or folder of that name."""
        if self.is_local:
            return os.path.exists(self._at(name))
        return bool(self.call(lambda: self.fs.exists(self._at(name))))

    def list(self, prefix: str = "") -> dict[str, int]:
        """Return every file in the folder `prefix` and below: name relative to this storage -> size in bytes."""
        if self.is_local:
            with self.translated():
                return dict(sorted(_walk(self.path, self._at(prefix))))
        found = self.call(lambda: self.fs.find(self._at(prefix), detail=True))
        return {name[len(self.path) + 1 :]: int(info["size"] or 0) for name, info in sorted(found.items())}

    def upload(self, local: Path, name: str) -> None:
        """Copy a local file of any size here, in parts; it appears whole or not at all."""
        if self.is_local:
            with self.translated(), self._partial(name) as partial:
                shutil.copyfile(local, partial)
                _sync(partial)
                _replace(partial, self._at(name))
            return
        chunk = max(_UPLOAD_CHUNK, local.stat().st_size // 9_000)  # S3 allows 10,000 parts
        options = {"chunksize": chunk} if self._protocol == "s3" else {}
        self.call(lambda: self.fs.put_file(str(local), self._at(name), **options))

    def delete(self, name: str) -> None:
        """Delete the file or folder; no error when there is none."""
        with contextlib.suppress(FileNotFoundError):
            if not self.is_local:
                self.call(lambda: self.fs.rm(self._at(name), recursive=True))
            elif os.path.isdir(self._at(name)):
                shutil.rmtree(self._at(name))
            else:
                os.unlink(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self.path}/{name}" if name else self.path

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Turn the system's errors of a local disk into those for people: AccessDenied, StorageFull."""
        try:
            yield
        except OSError as error:
            if refused := refusal(error, self.uri):
                raise refused from error
            raise

    @contextlib.contextmanager
    def _partial(self, name: str) -> Iterator[str]:
        """Yield a name beside the file for its unfinished state, gone afterwards."""
        folder, base = os.path.split(self._at(name))
        try:
            os.makedirs(folder, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise WindlassError("ConfigInvalid", f"{folder} cannot be a folder: a file is in the way") from error
        partial = f"{folder}/.{base}.{uuid.uuid4().hex[:12]}{PARTIAL}"
        try:
            yield partial
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)


def _protocol(uri: str) -> str:
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/(/?)", uri)
    if not match:
        return "file"
    protocol = match[1].lower()
    if not match[2]:
        raise WindlassError(
            "ConfigInvalid", f"{uri} is neither a path nor a URI; did you mean {protocol}:/{uri[len(protocol) + 1 :]}?"
        )
    if protocol in ("file", "local"):
        return "file"
    known = fsspec.available_protocols()
    if protocol not in known:
        near = difflib.get_close_matches(protocol, ["s3", "gs", "https", "http", "file", *known], n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(f'{name}://' for name in dict.fromkeys(near))}?" if near else ""
        raise WindlassError("ConfigInvalid", f"{shown(uri)}: there is no protocol {protocol}://{hint}")
    return "s3" if protocol == "s3a" else protocol


@lru_cache
def _filesystem(protocol: str, process: int) -> fsspec.AbstractFileSystem:
    """Return the process's file system; it must not be shared with a forked child, hence the argument."""
    if protocol == "file":
        return LocalFileSystem()
    options: dict[str, Any] = {}
    if protocol == "s3":
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        options = {
            "anon": ranges.anonymous(),
            "client_kwargs": {"region_name": region} if region else {},
            # One try each, since `retry` does the waiting.
            "config_kwargs": {"retries": {"total_max_attempts": 1}, "connect_timeout": 10, "read_timeout": 60},
            "max_concurrency": 4,
        }
    elif protocol in ("http", "https"):
        options = {"client_kwargs": {"trust_env": True}}
    try:
        return fsspec.filesystem(protocol, use_listings_cache=False, skip_instance_cache=True, **options)
    except ImportError as error:
        raise WindlassError("ConfigInvalid", f"{protocol}:// needs another package: {error}") from error


def refusal(error: BaseException, uri: str) -> WindlassError | None:
    """Return what a person must change before a repeated call can succeed, or None."""
    names, status, code = _names(error), _status(error), _code(error)
    if names & _CERTIFICATE_ERRORS and "certificate" in str(error).lower():
        hint = "set AWS_CA_BUNDLE (S3) or SSL_CERT_FILE to the authority's file"
        return WindlassError("AccessDenied", f"{shown(uri)}: its certificate is not trusted; {hint}: {_line(error)}")
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return WindlassError("AccessDenied", f"{shown(uri)}: the file system is read-only; choose another place")
    if names & _CREDENTIAL_ERRORS or status in (401, 403) or code in _CREDENTIAL_CODES:
        return WindlassError("AccessDenied", f"{shown(uri)}: access denied; check keys and permissions: {_line(error)}")
    if code == "NoSuchBucket":
        return WindlassError("DataNotFound", f"{shown(uri)}: there is no such bucket; check its name and the endpoint")
    if status == 507 or (isinstance(error, OSError) and error.errno in _FULL):
        return WindlassError("StorageFull", f"{shown(uri)}: no space is left there; free some and run again")
    return None


def _is_transient(error: BaseException) -> bool:
    status = _status(error)
    return status == 429 or status >= 500 or _code(error) == "RequestTimeout" or bool(_names(error) & _TRANSIENT_ERRORS)


def _names(error: BaseException) -> set[str]:
    """Return the names of its classes: botocore, aiohttp and requests share them, and none needs to be imported."""
    return {kind.__name__ for kind in type(error).__mro__}


def _response(error: BaseException) -> dict[str, Any]:
    """Return botocore's response; s3fs keeps it in the cause."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    return response if isinstance(response, dict) else {}


def _status(error: BaseException) -> int:
    status = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode") or getattr(error, "status", 0)
    return status if isinstance(status, int) else 0


def _code(error: BaseException) -> str:
    return str(_response(error).get("Error", {}).get("Code", ""))


def _line(error: BaseException) -> str:
    text = re.sub(r"(https?://)[^/@\s]*@", r"\1", str(error) or type(error).__name__)
    return re.sub(r"\?\S+", "", " ".join(text.split()))


def _write_through(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(partial: str, path: str) -> None:
    os.replace(partial, path)
    _sync(os.path.dirname(path))  # the name itself must survive a power cut


def _link(partial: str, path: str) -> bool:
    """Give the file its name unless that is taken; return whether it was free."""
    try:
        try:
            os.link(partial, path)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
            os.replace(partial, path)
    except FileExistsError:
        return False
    _sync(os.path.dirname(path))
    return True


def _walk(root: str, folder: str) -> Iterator[tuple[str, int]]:
    for parent, _, names in os.walk(folder):
        for name in names:
            if not name.endswith(PARTIAL):
                with contextlib.suppress(FileNotFoundError):  # deleted since
                    path = os.path.join(parent, name)
                    yield os.path.relpath(path, root), os.path.getsize(path)
