"""New lines of a file that is appended to, and now and then replaced by another one."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True)
class News:
    """What has come since the last look."""

    replaced: bool
    """Whether this is the beginning of another file than before."""
    offset: int
    """Bytes before it in the file."""
    lines: bytes
    """Whole lines."""


class Followed:
    """A file that may not be there yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None  # held open, so that the number of a replaced file is not used again
        self._offset = 0

    def read(self) -> News:
        """Whole lines that are new."""
        try:
            found = os.stat(self.path).st_ino
        except FileNotFoundError:
            return News(False, self._offset, b"")
        replaced = self._file is None or os.fstat(self._file.fileno()).st_ino != found
        if replaced:
            self.close()
            self._file = open(self.path, "rb")  # noqa: SIM115 - followed for long
            self._offset = 0
        assert self._file is not None
        self._file.seek(self._offset)
        offset = self._offset
        lines = self._file.read().rpartition(b"\n")
        whole = lines[0] + lines[1]
        self._offset += len(whole)
        return News(replaced, offset, whole)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
