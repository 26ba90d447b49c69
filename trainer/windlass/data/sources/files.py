"""A file of a source: what tells whether it changed, and its bytes, decompressed and with the storage's patience."""

import io
import os
from dataclasses import dataclass
from typing import Any, cast

from windlass.errors import WindlassError
from windlass.storage import Storage, shown

LONGEST = 16 << 20
"""Bytes of the longest document; a longer text becomes several, cut at line ends."""
LONGEST_RECORD = 64 << 20
"""Bytes of the longest line of a .jsonl file."""
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
_BUFFER = 4 << 20  # bytes per read of a remote file
# What changes when a file does, by the name that its file system gives it.
_VERSIONS = ("ETag", "etag", "mtime", "LastModified", "Last-Modified", "last_modified", "md5Hash")


@dataclass(frozen=True)
class SourceFile:
    """A file of a source, and what tells whether it changed."""

    storage: Storage
    name: str
    size: int
    """Bytes; -1 where the server does not say. Of a dataset, rows."""
    version: str
    """Modification time, ETag, or a dataset's fingerprint."""

    @property
    def uri(self) -> str:
        """Where it is, for messages."""
        return shown(f"{self.storage.uri}/{self.name}" if self.name else self.storage.uri)

    @property
    def ending(self) -> str:
        """The ending of its name in lower case, before that of a compression: .jsonl of a.jsonl.gz."""
        base = self.uri.lower()
        return os.path.splitext(base.removesuffix(self.compression))[1]

    @property
    def compression(self) -> str:
        """.gz, .zst, .bz2 or nothing."""
        ending = os.path.splitext(self.uri.lower())[1]
        return ending if ending in _COMPRESSIONS else ""

    @property
    def has_ranges(self) -> bool:
        """Whether parts of it can be read; not every web server gives them, and compressed files have none."""
        return not self.compression and self.size >= 0 and not self.uri.startswith("http")


def local_file(root: Storage, name: str) -> SourceFile:
    """The file of this machine as it is now."""
    status = os.stat(os.path.join(root.path, name))
    return SourceFile(root, name, status.st_size, str(status.st_mtime_ns))


def remote_file(root: Storage, name: str, info: dict[str, Any]) -> SourceFile:
    """The file that a file system described."""
    version = str(next((info[key] for key in _VERSIONS if info.get(key)), ""))
    size = info.get("size")
    return SourceFile(root, name, -1 if size is None else int(size), version)


def require_unchanged(file: SourceFile) -> None:
    """Raise DataCorrupt if the file is another one than when it was listed, DataNotFound if it is gone."""
    storage = file.storage
    try:
        if storage.is_local:
            now = local_file(storage, file.name)
        else:
            path = f"{storage.path}/{file.name}" if file.name else storage.path
            now = remote_file(storage, file.name, storage.call(lambda: storage.fs.info(path)))
    except FileNotFoundError as error:
        raise gone(file) from error
    if (now.size, now.version) != (file.size, file.version):
        message = f"{file.uri} changed while it was read: {file.size} bytes then, {now.size} now"
        raise WindlassError("DataCorrupt", f"{message}; run again when nothing writes to it any more")


def gone(file: SourceFile) -> WindlassError:
    """The error for a file that went after it was listed."""
    return WindlassError("DataNotFound", f"{file.uri} is gone since it was listed")


def open_file(file: SourceFile) -> io.BufferedIOBase:
    """Open the file for reading; what it yields is decompressed. DataCorrupt while reading a broken compressed file."""
    opened = _opened(file)
    if not file.compression:
        return opened
    import pyarrow

    stream = pyarrow.CompressedInputStream(opened, _COMPRESSIONS[file.compression])
    return io.BufferedReader(cast("io.RawIOBase", _Decompressed(stream, file)), _BUFFER)


def _opened(file: SourceFile) -> io.BufferedIOBase:
    if file.storage.is_local:
        return open(os.path.join(file.storage.path, file.name), "rb")
    if file.size < 0 or file.uri.startswith("http"):
        return io.BytesIO(file.storage.read(file.name))
    return io.BufferedReader(cast("io.RawIOBase", _Ranges(file)), _BUFFER)


class _Ranges(io.RawIOBase):
    """A file read by ranges, each with the storage's patience."""

    def __init__(self, file: SourceFile) -> None:
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        end = min(self._position + len(buffer), self._file.size)
        if end <= self._position:
            return 0
        data = self._file.storage.read(self._file.name, self._position, end)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class _Decompressed(io.RawIOBase):
    """pyarrow's decompressing stream as a Python one."""

    def __init__(self, stream: Any, file: SourceFile) -> None:
        self._stream = stream
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return int(self._stream.readinto(buffer))
        except OSError as error:  # pyarrow's for a broken stream
            message = f"{self._file.uri} cannot be decompressed: {error}"
            raise WindlassError("DataCorrupt", f"{message}; restore the file, or leave it out") from error
