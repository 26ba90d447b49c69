"""The working folder of a preparation: files that appear whole, beside the corpus, so that a killed one can go on."""

import contextlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from windlass.errors import WindlassError
from windlass.storage import PARTIAL, Storage, shown


class Workspace:
    """A folder at a URI; remote files are made and read in a temporary folder of this machine."""

    def __init__(self, uri: str) -> None:
        """Touch nothing yet."""
        self.storage = Storage(uri)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Yield the file to write; it appears whole, or not at all. StorageFull, AccessDenied."""
        with self.storage.translated():
            partial = self._partial(name)
            with open(partial, "wb") as file:
                yield file
        if self.storage.is_local:
            partial.rename(self._local / name)
        else:
            self.storage.upload(partial, name)
            partial.unlink()

    def file(self, name: str) -> Path:
        """Return the kept file; a remote one is fetched. FileNotFoundError where there is none."""
        path = self._local / name
        if not self.storage.is_local and not path.exists():
            partial = self._partial(name)
            self.storage.call(lambda: self.storage.fs.get_file(f"{self.storage.path}/{name}", str(partial)))
            partial.rename(path)
        return path

    def mark(self) -> str:
        """Write an empty file and return its name, for `require`."""
        name = f"mark-{uuid.uuid4().hex[:12]}"
        if self.storage.is_local:
            with self.writing(name):
                pass
        return name

    def require(self, mark: str) -> None:
        """Raise AccessDenied where the path of a local folder is another folder than the one that was marked."""
        if self.storage.is_local and not self.file(mark).exists():
            message = f"{shown(self.storage.uri)} is not the folder of that path where the preparation was started"
            remedy = "prepare to object storage, or to a folder that all machines share, and sources likewise"
            raise WindlassError("AccessDenied", f"{message}; {remedy}")

    def forget(self, name: str) -> None:
        """Free what a remote file takes on this machine."""
        if not self.storage.is_local:
            (self._local / name).unlink(missing_ok=True)

    def names(self) -> set[str]:
        """Return the names of all kept files."""
        return set(self.storage.list())

    def delete(self) -> None:
        """Delete it with all that is in it."""
        self.storage.delete("")
        if self._temporary:
            shutil.rmtree(self._temporary.name, ignore_errors=True)
            self._temporary = None

    def _partial(self, name: str) -> Path:
        self._local.mkdir(parents=True, exist_ok=True)
        return self._local / f"{name}.{uuid.uuid4().hex[:12]}{PARTIAL}"  # of a node given up, another may still write

    @property
    def _local(self) -> Path:
        if self.storage.is_local:
            return Path(self.storage.path)
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="windlass-prepare-")
        return Path(self._temporary.name)
