"""A file of JSON lines that grows by one record at a time, and is read again by the next start of a command."""

import json
import logging
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from windlass.errors import WindlassError

logger = logging.getLogger(__name__)

Record = dict[str, Any]


def read_journal(path: Path) -> list[Record]:
    """All records of the file, none where there is no file.

    A last line that is broken, since its writer died, is left out with a warning. Raises DataCorrupt for any other one.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[list[Record], bytes]:
    """The records, and the bytes of the file that hold them."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return [], b""
    records: list[Record] = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line) if line.strip() else None
            if record is not None and not isinstance(record, dict):
                raise ValueError(f"it is a {type(record).__name__}")
        except ValueError as error:  # UnicodeDecodeError is one
            if number == len(lines):
                logger.warning("%s:%d is broken, and left out: its writer was interrupted", path, number)
                return records, b"".join(lines[:-1])
            raise WindlassError(
                "DataCorrupt", f"{path}:{number} is no JSON record: {error}; correct the line, or remove it"
            ) from error
        records += [] if record is None else [record]
    whole = b"".join(lines)
    return records, whole + b"\n" * (bool(whole) and not whole.endswith(b"\n"))


class Journal:
    """An open journal; one process at a time writes it."""

    def __init__(self, path: Path) -> None:
        """Read what is there, and cut off a broken last line. Errors as of `read_journal`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.records, whole = _read(path)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - __exit__ closes it
        if self._file.tell() != len(whole):
            self._file.truncate(min(self._file.tell(), len(whole)))
            self._file.write(whole[os.fstat(self._file.fileno()).st_size :])

    def append(self, record: Record) -> None:
        """Add a record; it is on the disk when this returns."""
        self._file.write(json.dumps(record, ensure_ascii=False).encode(errors="replace") + b"\n")
        os.fsync(self._file.fileno())
        self.records.append(record)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
