"""Records with named fields: the text of one, and files with a JSON record a line."""

import json
import string
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, BinaryIO, cast

from windlass.data.sources.files import LONGEST_RECORD, SourceFile, open_file
from windlass.errors import WindlassError


@lru_cache
def field_names(text_field: str) -> tuple[str, ...]:
    """The fields that `textField` names: itself, or those in braces. ConfigInvalid for braces that don't match."""
    if "{" not in text_field:
        return (text_field,)
    try:
        return tuple(name for _, name, _, _ in string.Formatter().parse(text_field) if name is not None)
    except ValueError as error:
        raise WindlassError("ConfigInvalid", f"textField {text_field!r}: {error}; a name in braces each") from error


def text_of(record: dict[str, Any], text_field: str, name: str, setting: str = "textField") -> str | None:
    """The record's text, or None where it is no Unicode; DataCorrupt where a field is missing or no text.

    `setting` is the source's field that names the record's, for the message.
    """
    values = {field: record.get(field) for field in field_names(text_field)}
    for field, value in values.items():
        if not isinstance(value, str):
            has = ", ".join(sorted(record))
            raise WindlassError("DataCorrupt", f"{name} has no text in field {field}; it has {has}; set {setting}")
    text = text_field.format_map(values) if "{" in text_field else str(values[text_field])
    return text if _is_unicode(text) else None


def json_lines(file: SourceFile, start: int, stop: int | None) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Yield the place and the record of each line that begins in bytes [start, stop); None for what is no UTF-8."""
    place = f"{file.uri}@{start}" if start else file.uri
    with cast("BinaryIO", open_file(file)) as lines:
        position = start
        if start:
            lines.seek(start - 1)
            position += len(_line(lines, file)) - 1
        number = 0
        while (stop is None or position < stop) and (line := _line(lines, file)):
            number += 1
            position += len(line)
            if line.strip():
                name = f"{place}:{number}"
                yield name, _record(line, name)


def _line(lines: BinaryIO, file: SourceFile) -> bytes:
    line = lines.readline(LONGEST_RECORD)
    if len(line) == LONGEST_RECORD:
        message = f"{file.uri} has a line of more than {LONGEST_RECORD >> 20} MiB"
        raise WindlassError("DataCorrupt", f"{message}; JsonLines wants one record a line, not one array for all")
    return line


def _record(line: bytes, name: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return None
    except ValueError as error:
        raise WindlassError("DataCorrupt", f"{name} is no JSON: {error}") from error
    if not isinstance(record, dict):
        raise WindlassError("DataCorrupt", f"{name} is no record with fields; it is a {type(record).__name__}")
    return record


def _is_unicode(text: str) -> bool:
    """Return whether the text is Unicode; JSON can hold half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
