"""Which files a source names."""

import difflib
import os
import sys
import sysconfig
from typing import Any, cast

from windlass.data.sources import hub
from windlass.data.sources.files import SourceFile, local_file, remote_file
from windlass.errors import WindlassError
from windlass.spec.job import RawData
from windlass.storage import PARTIAL, Storage, shown

STDLIB = "python://stdlib"
DOCSTRINGS = "python://docstrings"
"""The same files, of which each documented function and class is a record."""
_NOT_STDLIB = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


def list_files(source: RawData) -> list[SourceFile]:
    """Return the source's files, sorted by name. DataNotFound where nothing is there or nothing matches."""
    if source.uri in (STDLIB, DOCSTRINGS):
        return _stdlib()
    if source.uri.startswith("python://"):
        raise WindlassError("ConfigInvalid", f"{source.uri}: there are {STDLIB} and {DOCSTRINGS} only")
    if hub.is_dataset(source.uri):
        return [hub.dataset_file(source.uri)]
    if source.uri.startswith(("http://", "https://")):
        return [_web(source.uri)]
    return _files(source.uri)


def _stdlib() -> list[SourceFile]:
    """Return the running interpreter's standard library, without its tests."""
    root = sysconfig.get_path("stdlib")
    names = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _NOT_STDLIB]
        names += [os.path.relpath(os.path.join(folder, name), root) for name in files if name.endswith(".py")]
    if not names:
        raise WindlassError("DataNotFound", f"{STDLIB}: Python {sys.version.split()[0]} has no .py files in {root}")
    return [local_file(Storage(root), name) for name in sorted(names)]


def _web(uri: str) -> SourceFile:
    storage = Storage(uri)
    try:
        info = storage.call(lambda: storage.fs.info(uri))
    except FileNotFoundError as error:
        raise WindlassError("DataNotFound", f"{shown(uri)}: there is no such page") from error
    return remote_file(storage, "", info)


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
    return local_file(storage, name) if storage.is_local else remote_file(storage, name, info)


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


def _absent(storage: Storage, pattern: str) -> str:
    if pattern:
        return "no file matches"
    if storage.exists(""):
        return "the folder has no files"
    folder, _, name = storage.path.rpartition("/")
    siblings = os.listdir(folder or "/") if storage.is_local and os.path.isdir(folder or "/") else []
    near = difflib.get_close_matches(name, siblings, n=1)
    return "there is no such file or folder" + (f"; did you mean {near[0]}?" if near else "")
