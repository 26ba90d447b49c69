"""Tables: a record a row."""

import csv as csv_module
import io
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, cast

from windlass.data.sources.files import LONGEST, SourceFile, open_file
from windlass.errors import WindlassError


def parquet(
    file: SourceFile, first: int, stop: int | None, texts: Sequence[str] | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place and the record of each row of the row groups [first, stop).

    `texts` are columns to read, as text, where a null is an empty one; None reads all columns as what they are.
    """
    import pyarrow

    try:
        with open_file(file) as opened, _opened(opened) as table:
            if missing := [field for field in texts or () if field not in table.schema_arrow.names]:
                has = ", ".join(table.schema_arrow.names)
                raise WindlassError(
                    "DataCorrupt", f"{file.uri} has no column {missing[0]}; it has {has}; set textField"
                )
            groups = range(first, table.num_row_groups if stop is None else stop)
            number = sum(table.metadata.row_group(group).num_rows for group in range(first))
            for batch in table.iter_batches(batch_size=1024, columns=texts and list(texts), row_groups=groups):
                names = texts or batch.schema.names
                columns = [batch.column(name) for name in names]
                if texts is not None:
                    columns = [column.cast(pyarrow.string()).fill_null("") for column in columns]
                for values in zip(*(column.to_pylist() for column in columns), strict=True):
                    number += 1
                    yield f"{file.uri}:{number}", dict(zip(names, values, strict=True))
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise WindlassError("DataCorrupt", f"{file.uri} cannot be read as Parquet: {error}") from error


def row_groups(file: SourceFile) -> list[int]:
    """The bytes of each row group, uncompressed; DataCorrupt where the file is no Parquet."""
    import pyarrow

    try:
        with open_file(file) as opened, _opened(opened) as table:
            metadata = table.metadata
            return [metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)]
    except pyarrow.ArrowException as error:
        raise WindlassError("DataCorrupt", f"{file.uri} cannot be read as Parquet: {error}") from error


def csv(file: SourceFile, delimiter: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place and the record of each row below the header; fields in quotes may have line ends."""
    csv_module.field_size_limit(LONGEST)
    with (
        open_file(file) as opened,
        io.TextIOWrapper(cast("BinaryIO", opened), "utf-8-sig", "surrogateescape", newline="") as lines,
    ):
        rows = csv_module.DictReader(lines, delimiter=delimiter, restkey="")
        try:
            for row in rows:
                yield f"{file.uri}:{rows.line_num}", row
        except csv_module.Error as error:
            raise WindlassError("DataCorrupt", f"{file.uri}:{rows.line_num + 1} is no row: {error}") from error


def _opened(opened: io.BufferedIOBase) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(opened)
