"""The documents or records in a file, or in a part of one, by its format."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from windlass.data.sources import docstrings, hub, tables, text, web
from windlass.data.sources.document import Document
from windlass.data.sources.files import SourceFile, gone
from windlass.data.sources.listing import DOCSTRINGS
from windlass.data.sources.records import field_names, json_lines, text_of
from windlass.errors import WindlassError
from windlass.spec.job import RawData, Source

_FORMATS = {
    **dict.fromkeys((".jsonl", ".ndjson"), "JsonLines"),
    **dict.fromkeys((".html", ".htm", ".xhtml"), "Html"),
    ".parquet": "Parquet",
    ".csv": "Csv",
    ".tsv": "Tsv",
    ".warc": "Warc",
}


@dataclass(frozen=True)
class Part:
    """A part of a file: bytes of text and .jsonl files, row groups of .parquet, rows of datasets."""

    start: int = 0
    stop: int | None = None
    """None: to the end."""


WHOLE = Part()


def format_of(source: RawData, file: SourceFile) -> str:
    """The file's format: the source's, or by the file's ending."""
    if hub.is_dataset(source.uri):
        return "Dataset"
    if source.uri == DOCSTRINGS:
        return "Docstrings"
    return source.format if source.format != "Auto" else _FORMATS.get(file.ending, "Text")


def documents(source: RawData, file: SourceFile, part: Part = WHOLE) -> Iterator[Document]:
    """Yield the part's documents in their order: those that begin in it.

    Raises DataCorrupt for a broken record, DataNotFound for a file that went, AccessDenied.
    """
    separator = source.document_separator if isinstance(source, Source) else None
    with _readable(file):
        match format_of(source, file):
            case "Html":
                yield from web.html(file)
            case "Warc":
                yield from web.warc(file)
            case "Text" | "Code":
                yield from text.documents(file, separator, part.start, part.stop)
            case _:
                for name, record in _records(source, file, part, field_names(source.text_field)):
                    yield Document(name, None if record is None else text_of(record, source.text_field, name))


def records(source: RawData, file: SourceFile) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the file's records in their order, each with its place. Errors as of `documents`, and for other formats."""
    if format_of(source, file) in ("Text", "Code", "Html", "Warc"):
        message = f"{file.uri} has no records with fields; give a .jsonl, .parquet, .csv or .tsv file, or set format"
        raise WindlassError("ConfigInvalid", message)
    with _readable(file):
        for name, record in _records(source, file, WHOLE, None):
            if record is None:
                raise WindlassError("DataCorrupt", f"{name} is no UTF-8")
            yield name, record


def _records(
    source: RawData, file: SourceFile, part: Part, texts: Sequence[str] | None
) -> Iterator[tuple[str, dict[str, Any] | None]]:
    match format_of(source, file):
        case "Dataset":
            for number, row in hub.rows(file, part.start, file.size if part.stop is None else part.stop):
                yield f"{file.uri}:{number}", row
        case "Docstrings":
            yield from docstrings.records(file)
        case "JsonLines":
            yield from json_lines(file, part.start, part.stop)
        case "Parquet":
            yield from tables.parquet(file, part.start, part.stop, texts)
        case kind:
            yield from tables.csv(file, "," if kind == "Csv" else "\t")


@contextmanager
def _readable(file: SourceFile) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise gone(file) from error
    except PermissionError as error:
        message = f"{file.uri} may not be read by user {os.geteuid()}; check its permissions"
        raise WindlassError("AccessDenied", message) from error
