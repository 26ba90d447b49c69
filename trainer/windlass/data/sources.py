"""Raw sources: which files a source names, and the documents in them."""

import difflib
import io
import json
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from windlass.errors import WindlassError
from windlass.spec.job import Source
from windlass.storage import PARTIAL, Storage, shown

STDLIB = "python://stdlib"
_NOT_STDLIB = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
_FORMATS = {".jsonl": "JsonLines", ".ndjson": "JsonLines", ".parquet": "Parquet"}
_BUFFER = 8 << 20  # bytes per read of a file that is streamed


@dataclass(frozen=True)
class SourceFile:
    """A file of a source, and what tells whether it changed."""

    storage: Storage
    name: str
    size: int
    """Bytes; -1 where the server does not say."""
    version: str
    """Modification time or ETag."""

    @property
    def uri(self) -> str:
        """Where it is, for messages."""
        return shown(f"{self.storage.uri}/{self.name}" if self.name else self.storage.uri)


@dataclass(frozen=True)
class Document:
    """A text, or None where its bytes are no UTF-8."""

    name: str
    text: str | None


def list_files(source: Source) -> list[SourceFile]:
    """Return the source's files, sorted by name. DataNotFound where nothing is there or nothing matches."""
    if source.uri == STDLIB:
        return _stdlib()
    if source.uri.startswith("python://"):
        raise WindlassError("ConfigInvalid", f"{source.uri}: there is {STDLIB} only")
    if source.uri.startswith(("http://", "https://")):
        return [_web(source.uri)]
    return _files(source.uri)


def documents(source: Source, file: SourceFile) -> Iterator[Document]:
    """Yield the file's documents in their order. DataCorrupt for a broken record, DataNotFound for a file that went."""
    try:
        match _format(source, file):
            case "JsonLines":
                yield from _json_lines(source, file)
            case "Parquet":
                yield from _parquet(source, file)
            case _:
                yield from _text(source, file)
    except FileNotFoundError as error:
        raise WindlassError("DataNotFound", f"{file.uri} is gone since it was listed") from error


def _format(source: Source, file: SourceFile) -> str:
    if source.format != "Auto":
        return source.format
    return _FORMATS.get(os.path.splitext(file.uri)[1].lower(), "Text")


def _text(source: Source, file: SourceFile) -> Iterator[Document]:
    try:
        text = file.storage.read(file.name).decode("utf-8-sig")
    except UnicodeDecodeError:
        yield Document(file.uri, None)
        return
    if source.document_separator is None:
        yield Document(file.uri, text)
    else:
        for number, part in enumerate(text.split(source.document_separator), 1):
            if part.strip():
                yield Document(f"{file.uri}#{number}", part)


def _json_lines(source: Source, file: SourceFile) -> Iterator[Document]:
    with _open(file) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                name = f"{file.uri}:{number}"
                yield Document(name, _field(line, source.text_field, name))


def _field(line: bytes, field: str, name: str) -> str | None:
    """Return the record's text, or None where it is no UTF-8."""
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return None
    except ValueError as error:
        raise WindlassError("DataCorrupt", f"{name} is no JSON: {error}") from error
    value = record.get(field) if isinstance(record, dict) else None
    if not isinstance(value, str):
        has = f"it has {', '.join(sorted(record))}" if isinstance(record, dict) else f"it is a {type(record).__name__}"
        raise WindlassError("DataCorrupt", f"{name} has no text in field {field}; {has}; set textField")
    return value if _encodes(value) else None


def _encodes(text: str) -> bool:
    """Return whether the text is Unicode; JSON can hold half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parquet(source: Source, file: SourceFile) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet

    field, number = source.text_field, 0
    try:
        with _open(file) as opened, pyarrow.parquet.ParquetFile(opened) as table:
            if field not in table.schema_arrow.names:
                has = ", ".join(table.schema_arrow.names)
                raise WindlassError("DataCorrupt", f"{file.uri} has no column {field}; it has {has}; set textField")
            for batch in table.iter_batches(batch_size=1024, columns=[field]):
                for value in batch.column(0).cast(pyarrow.string()).to_pylist():
                    number += 1
                    yield Document(f"{file.uri}:{number}", value or "")
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise WindlassError("DataCorrupt", f"{file.uri} cannot be read as Parquet: {error}") from error


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


def _open(file: SourceFile) -> io.BufferedIOBase:
    if file.storage.is_local:
        return open(os.path.join(file.storage.path, file.name), "rb")
    if file.size < 0 or file.uri.startswith("http"):  # not every web server gives ranges
        return io.BytesIO(file.storage.read(file.name))
    return io.BufferedReader(cast("io.RawIOBase", _Ranges(file)), _BUFFER)


def _stdlib() -> list[SourceFile]:
    """Return the running interpreter's standard library, without its tests."""
    root = sysconfig.get_path("stdlib")
    names = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _NOT_STDLIB]
        names += [os.path.relpath(os.path.join(folder, name), root) for name in files if name.endswith(".py")]
    if not names:
        raise WindlassError("DataNotFound", f"{STDLIB}: Python {sys.version.split()[0]} has no .py files in {root}")
    return [_local(Storage(root), name) for name in sorted(names)]


def _local(root: Storage, name: str) -> SourceFile:
    status = os.stat(os.path.join(root.path, name))
    return SourceFile(root, name, status.st_size, str(status.st_mtime_ns))


def _web(uri: str) -> SourceFile:
    storage = Storage(uri)
    try:
        info = storage.call(lambda: storage.fs.info(uri))
    except FileNotFoundError as error:
        raise WindlassError("DataNotFound", f"{shown(uri)}: there is no such page") from error
    return SourceFile(storage, "", info.get("size") or -1, _version(info))


def _files(uri: str) -> list[SourceFile]:
    """Return the files of a path, folder or pattern on a file system or object store."""
    fixed, pattern = _split_pattern(uri)
    storage = Storage(fixed)
    found = storage.call(lambda: _matching(storage, pattern))
    root = storage.path
    if list(found) == [root]:  # the URI is a file
        folder, _, name = fixed.rstrip("/").rpartition("/")
        return [_source_file(Storage(folder or _root(fixed)), name, found[root])]
    names = {path[len(root) + 1 :]: info for path, info in found.items()}
    files = [
        _source_file(storage, name, info)
        for name, info in sorted(names.items())
        if _is_file(storage, name, info) and not _hidden(name)
    ]
    if not files:
        raise WindlassError("DataNotFound", f"{shown(uri)}: {_absent(storage, pattern)}")
    return files


def _matching(storage: Storage, pattern: str) -> dict[str, Any]:
    fs = storage.fs
    found = fs.glob(f"{storage.path}/{pattern}", detail=True) if pattern else fs.find(storage.path, detail=True)
    return cast("dict[str, Any]", found)


def _is_file(storage: Storage, name: str, info: dict[str, Any]) -> bool:
    """Return whether it is a file or a link to one."""
    return os.path.isfile(os.path.join(storage.path, name)) if storage.is_local else info["type"] == "file"


def _source_file(storage: Storage, name: str, info: dict[str, Any]) -> SourceFile:
    return _local(storage, name) if storage.is_local else SourceFile(storage, name, info["size"], _version(info))


def _root(path: str) -> str:
    return "/" if path.startswith("/") else "."


def _split_pattern(uri: str) -> tuple[str, str]:
    """Return the part of the URI before the first wildcard's folder, and the pattern from there on."""
    parts = uri.split("/")
    wild = next((i for i, part in enumerate(parts) if set(part) & set("*?[")), len(parts))
    fixed = "/".join(parts[:wild])
    return fixed or _root(uri), "/".join(parts[wild:])


def _hidden(name: str) -> bool:
    return name.endswith(PARTIAL) or any(part.startswith(".") for part in name.split("/"))


def _version(info: dict[str, Any]) -> str:
    """Return what changes when the file does, by the name that its file system gives it."""
    names = ("ETag", "etag", "mtime", "LastModified", "Last-Modified", "last_modified", "md5Hash")
    return str(next((info[name] for name in names if info.get(name)), ""))


def _absent(storage: Storage, pattern: str) -> str:
    if pattern:
        return "no file matches"
    if storage.exists(""):
        return "the folder has no files"
    folder, _, name = storage.path.rpartition("/")
    siblings = os.listdir(folder or "/") if storage.is_local and os.path.isdir(folder or "/") else []
    near = difflib.get_close_matches(name, siblings, n=1)
    return "there is no such file or folder" + (f"; did you mean {near[0]}?" if near else "")
