"""metrics.jsonl: a JSON line for each logged step, validation, sample and commit, and the sinks that get them too."""

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol

Record = dict[str, Any]


class Sink(Protocol):
    """Somewhere else that records go."""

    def write(self, record: Record) -> None:
        """Take one record, as in metrics.jsonl."""

    def close(self) -> None:
        """Write out what is buffered."""


class Recorder:
    """Writes records to a file (rank 0; `path` None elsewhere) and to sinks."""

    def __init__(self, path: Path | None, sinks: Sequence[Sink] = ()) -> None:
        self._path = path
        self._sinks = sinks
        self._content = bytearray()
        self._file: BinaryIO | None = None

    def begin(self, history: bytes) -> None:
        """Start the file with `history`, what a resumed checkpoint says was logged before it.

        The file is replaced, not cut: a rank of an older attempt that has not died yet writes to the old one.
        """
        if self._path is None:
            return
        if self._file is not None:
            self._file.close()
        self._content = bytearray(history)
        partial = self._path.with_suffix(".partial")
        partial.write_bytes(history)
        os.replace(partial, self._path)
        self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115 - open for the whole run

    def write(self, record: Record) -> None:
        """Append a record with the time of day. Raises OSError where the disk is full."""
        record = record | {"time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        if self._file is not None:
            line = json.dumps(record).encode() + b"\n"
            self._file.write(line)
            self._content += line
        for sink in self._sinks:
            sink.write(record)

    def content(self) -> bytes:
        """Everything in the file so far; empty on other ranks than 0."""
        return bytes(self._content)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        for sink in self._sinks:
            sink.close()
