"""The working folder of a preparation: files that appear whole, beside the corpus, so that a killed one can go on."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from windlass.storage import PARTIAL, Storage


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
        return self._local / f"{name}{PARTIAL}"

    @property
    def _local(self) -> Path:
        if self.storage.is_local:
            return Path(self.storage.path)
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="windlass-prepare-")
        return Path(self._temporary.name)
