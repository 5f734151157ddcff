"""How each format is read: a unit of work to Arrow tables, with every row's source and position.

A row that a reader cannot take (a line that is not JSON, a value that does not fit its column, a file that cannot be
opened) keeps its place, with an error in `READ_ERROR_COLUMN`: it becomes a dead letter like any other. Column types are
settled once, on a sample of the first file, so that they are the same in all blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from ray_pipelines.arrow import errors_to_arrow
from ray_pipelines.config import ReadFormat
from ray_pipelines.data.files import SourceFile
from ray_pipelines.data.formats import csv, jsonl, media, parquet, text
from ray_pipelines.data.formats.unit import Reader, Unit
from ray_pipelines.data.workers import READ_ERROR_COLUMN
from ray_pipelines.errors import ConfigError

__all__ = ["ROW_COLUMN", "SOURCE_COLUMN", "Unit", "read_unit", "sample_schema", "units_of_file"]

SOURCE_COLUMN = "__source"
ROW_COLUMN = "__row"

READERS: dict[ReadFormat, Reader] = {
    "parquet": parquet,
    "jsonl": jsonl,
    "csv": csv,
    "text": text,
    "images": media,
}


def units_of_file(file: SourceFile, read_format: ReadFormat) -> list[Unit]:
    """The units of one file."""
    return READERS[read_format].units(file)


def sample_schema(file: SourceFile, read_format: ReadFormat, text_columns: Sequence[str]) -> pa.Schema:
    """The columns and types of a file, from its first rows.

    Args:
        file: The first file.
        read_format: Its format.
        text_columns: Columns that are strings whatever their values look like.

    Raises:
        ConfigError: The file cannot be read.
    """
    try:
        schema = READERS[read_format].sample_schema(file)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise ConfigError(f"read.path: {file.path} cannot be read as {read_format}: {error}") from None
    for name in text_columns:
        index = schema.get_field_index(name)
        if index >= 0 and read_format in ("jsonl", "csv"):
            schema = schema.set(index, pa.field(name, pa.string()))
    for name in file.partition:
        if name not in schema.names:
            schema = schema.append(pa.field(name, pa.string()))
    return schema


def read_unit(unit: Unit, read_format: ReadFormat, schema: pa.Schema, rows_per_table: int) -> Iterator[pa.Table]:
    """The rows of a unit as tables of at most `rows_per_table` rows, of `schema` plus source, position and error.

    Args:
        unit: What to read.
        read_format: Its format.
        schema: The columns to read, and their types.
        rows_per_table: Rows of one table at most.
    """
    own = pa.schema([column for column in schema if column.name not in unit.file.partition])
    row = unit.first_row
    for part in READERS[read_format].read(unit, own, rows_per_table):
        table, positions, errors = part.table, part.positions, part.errors
        for name in schema.names:
            if name in unit.file.partition and name not in table.column_names:
                table = table.append_column(name, pa.repeat(pa.scalar(unit.file.partition[name]), table.num_rows))
        rows = pa.array(positions if positions is not None else range(row, row + table.num_rows), type=pa.int64())
        row += table.num_rows
        sources = pa.repeat(pa.scalar(unit.file.path), table.num_rows)
        yield (
            table.select(schema.names)
            .append_column(SOURCE_COLUMN, sources)
            .append_column(ROW_COLUMN, rows)
            .append_column(READ_ERROR_COLUMN, errors_to_arrow(errors or [None] * table.num_rows))
        )
