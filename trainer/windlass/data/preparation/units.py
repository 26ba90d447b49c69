"""Units of work: parts of the sources that are small enough for a process, and the same on any number of processes."""

from collections.abc import Iterator
from dataclasses import dataclass

from windlass.data.sources.documents import WHOLE, Part, format_of
from windlass.data.sources.files import LONGEST, SourceFile
from windlass.data.sources.tables import row_groups
from windlass.spec.job import Source

SIZE = 8 << 20
"""Bytes of a unit, about."""
_MOST_FILES = 1024
_ROWS = 10_000  # of a dataset


@dataclass(frozen=True)
class Piece:
    """A file or a part of one."""

    file: SourceFile
    part: Part
    size: int
    """Bytes, for the estimate of the time that is left."""


@dataclass(frozen=True)
class Unit:
    """What one process does at once."""

    number: int
    source: int
    pieces: tuple[Piece, ...]
    alone: bool
    """The only one of its source."""

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(piece.size for piece in self.pieces)


def cut(sources: list[Source], files: list[list[SourceFile]]) -> list[Unit]:
    """Return the units of all sources in their order; it depends on nothing but the files and their sizes."""
    groups = [
        (index, list(_grouped(piece for file in its_files for piece in _pieces(source, file))))
        for index, (source, its_files) in enumerate(zip(sources, files, strict=True))
    ]
    flat = [(index, pieces, len(its) == 1) for index, its in groups for pieces in its]
    return [Unit(number, index, tuple(pieces), alone) for number, (index, pieces, alone) in enumerate(flat)]


def _grouped(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    group: list[Piece] = []
    for piece in pieces:
        if group and (sum(each.size for each in group) + piece.size > SIZE or len(group) == _MOST_FILES):
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def _pieces(source: Source, file: SourceFile) -> Iterator[Piece]:
    """Yield the file, in parts where it is large and its format has places to cut."""
    match format_of(source, file):
        case "Dataset":
            yield from _ranges(file, file.size, _ROWS, bytes_each=1000)
        case "Parquet" if file.has_ranges and file.size > SIZE:
            for group, size in enumerate(row_groups(file)):
                yield Piece(file, Part(group, group + 1), size)
        case "JsonLines" if file.has_ranges and file.size > SIZE:
            yield from _ranges(file, file.size, SIZE)
        case "Text" | "Code" if file.has_ranges and file.size > LONGEST and source.document_separator is None:
            yield from _ranges(file, file.size, LONGEST)
        case _:
            yield Piece(file, WHOLE, file.size if file.size >= 0 else SIZE)


def _ranges(file: SourceFile, total: int, step: int, bytes_each: int = 1) -> Iterator[Piece]:
    for start in range(0, total, step):
        stop = min(start + step, total)
        yield Piece(file, Part(start, stop), (stop - start) * bytes_each)
