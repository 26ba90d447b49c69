"""Plain text and source code: a file is a document, or several with a separator between."""

from collections.abc import Iterator
from typing import BinaryIO, cast

from windlass.data.sources.document import Document
from windlass.data.sources.files import LONGEST, SourceFile, open_file

_NEAR = 1 << 16  # bytes: how far behind its place a cut looks for the end of a line


def documents(file: SourceFile, separator: str | None, start: int, stop: int | None) -> Iterator[Document]:
    """Yield the documents of the bytes [start, stop) of the file; those longer than LONGEST in pieces.

    A piece of a file begins at the first line that begins at or after `start`, and ends where the next one begins.
    """
    with cast("BinaryIO", open_file(file)) as opened:
        if start:
            opened.seek(start - 1)
            start = start - 1 + len(_rest_of_line(opened.read(_NEAR + 1)))
            opened.seek(start)
        if separator is not None:
            yield from _separated(file, opened, separator.encode())
        elif not stop:
            yield from _pieces(file.uri, opened)
        else:
            opened.seek(stop - 1)
            end = stop - 1 + len(_rest_of_line(opened.read(_NEAR + 1)))
            opened.seek(start)
            if end > start:
                yield _document(f"{file.uri}@{start}" if start else file.uri, opened.read(end - start))


def _pieces(name: str, opened: BinaryIO) -> Iterator[Document]:
    """Yield what is left of the file, as one document or in pieces."""
    at, rest = 0, b""
    while True:
        data = rest + opened.read(LONGEST + _NEAR - len(rest))
        piece = data if len(data) <= LONGEST else data[: LONGEST - 1 + len(_rest_of_line(data[LONGEST - 1 :]))]
        if piece or not at:
            yield _document(f"{name}@{at}" if at else name, piece)
        if not piece:
            return
        at, rest = at + len(piece), data[len(piece) :]


def _separated(file: SourceFile, opened: BinaryIO, separator: bytes) -> Iterator[Document]:
    number, waiting = 0, b""
    while chunk := opened.read(1 << 20):
        *whole, waiting = (waiting + chunk).split(separator)
        while len(waiting) > LONGEST + _NEAR:
            cut = LONGEST - 1 + len(_rest_of_line(waiting[LONGEST - 1 :]))
            whole.append(waiting[:cut])
            waiting = waiting[cut:]
        for part in whole:
            number += 1
            if part.strip():
                yield _document(f"{file.uri}#{number}", part)
    if waiting.strip():
        yield _document(f"{file.uri}#{number + 1}", waiting)


def _rest_of_line(data: bytes) -> bytes:
    """Return the bytes up to the end of the line; where none ends nearby, up to a character, or the end."""
    end = data.find(b"\n", 0, _NEAR + 1)
    if end >= 0:
        return data[: end + 1]
    characters = (at for at in range(1, min(5, len(data))) if data[at] & 0xC0 != 0x80)
    return data[: next(characters, len(data) if len(data) < 5 else 1)]


def _document(name: str, data: bytes) -> Document:
    if b"\0" in data:  # no text has one
        return Document(name, None)
    try:
        return Document(name, data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return Document(name, None)
