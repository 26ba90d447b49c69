"""Tables: a document a row."""

import csv as csv_module
import io
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from windlass.data.sources.document import Document
from windlass.data.sources.files import LONGEST, SourceFile, open_file
from windlass.data.sources.records import field_names, text_of
from windlass.errors import WindlassError
from windlass.spec.job import RawData


def parquet(source: RawData, file: SourceFile, first: int, stop: int | None) -> Iterator[Document]:
    """Yield the documents of the row groups [first, stop); a null is an empty text."""
    import pyarrow

    fields = list(field_names(source.text_field))
    try:
        with open_file(file) as opened, _opened(opened) as table:
            if missing := [field for field in fields if field not in table.schema_arrow.names]:
                has = ", ".join(table.schema_arrow.names)
                raise WindlassError(
                    "DataCorrupt", f"{file.uri} has no column {missing[0]}; it has {has}; set textField"
                )
            groups = range(first, table.num_row_groups if stop is None else stop)
            number = sum(table.metadata.row_group(group).num_rows for group in range(first))
            for batch in table.iter_batches(batch_size=1024, columns=fields, row_groups=groups):
                columns = [batch.column(field).cast(pyarrow.string()).to_pylist() for field in fields]
                for values in zip(*columns, strict=True):
                    number += 1
                    row = dict(zip(fields, (value or "" for value in values), strict=True))
                    name = f"{file.uri}:{number}"
                    yield Document(name, text_of(row, source.text_field, name))
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


def csv(source: RawData, file: SourceFile, delimiter: str) -> Iterator[Document]:
    """Yield a document for each row below the header; fields in quotes may have line ends."""
    csv_module.field_size_limit(LONGEST)
    with (
        open_file(file) as opened,
        io.TextIOWrapper(cast("BinaryIO", opened), "utf-8-sig", "surrogateescape", newline="") as lines,
    ):
        rows = csv_module.DictReader(lines, delimiter=delimiter, restkey="")
        try:
            for row in rows:
                name = f"{file.uri}:{rows.line_num}"
                yield Document(name, text_of(row, source.text_field, name))
        except csv_module.Error as error:
            raise WindlassError("DataCorrupt", f"{file.uri}:{rows.line_num + 1} is no row: {error}") from error


def _opened(opened: io.BufferedIOBase) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(opened)
