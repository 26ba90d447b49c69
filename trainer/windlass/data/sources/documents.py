"""The documents in a file, or in a part of one, by its format."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from windlass.data.sources import hub, records, tables, text, web
from windlass.data.sources.document import Document
from windlass.data.sources.files import SourceFile, gone
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
    return source.format if source.format != "Auto" else _FORMATS.get(file.ending, "Text")


def documents(source: RawData, file: SourceFile, part: Part = WHOLE) -> Iterator[Document]:
    """Yield the part's documents in their order: those that begin in it.

    Raises DataCorrupt for a broken record, DataNotFound for a file that went, AccessDenied.
    """
    separator = source.document_separator if isinstance(source, Source) else None
    try:
        match format_of(source, file):
            case "Dataset":
                yield from records.from_rows(
                    source, file, hub.rows(file, part.start, file.size if part.stop is None else part.stop)
                )
            case "JsonLines":
                yield from records.json_lines(source, file, part.start, part.stop)
            case "Parquet":
                yield from tables.parquet(source, file, part.start, part.stop)
            case "Csv" | "Tsv" as kind:
                yield from tables.csv(source, file, "," if kind == "Csv" else "\t")
            case "Html":
                yield from web.html(file)
            case "Warc":
                yield from web.warc(file)
            case _:
                yield from text.documents(file, separator, part.start, part.stop)
    except FileNotFoundError as error:
        raise gone(file) from error
    except PermissionError as error:
        message = f"{file.uri} may not be read by user {os.geteuid()}; check its permissions"
        raise WindlassError("AccessDenied", message) from error
