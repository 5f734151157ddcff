"""How each format is read: a unit of work to Arrow tables, with every row's source and position.

A row that a reader cannot take (a line that is not JSON, a value that does not fit its column, a file that cannot be
opened) keeps its place, with an error in `READ_ERROR_COLUMN`: it becomes a dead letter like any other. Column types are
settled once, on a sample of the first file, so that they are the same in all blocks.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ray_pipelines.arrow import errors_to_arrow
from ray_pipelines.config import ReadFormat
from ray_pipelines.data.files import SourceFile, extension, open_file
from ray_pipelines.data.workers import READ_ERROR_COLUMN
from ray_pipelines.errors import ConfigError, InvalidInput, RowError, attempt

__all__ = ["ROW_COLUMN", "SOURCE_COLUMN", "Unit", "read_unit", "sample_schema", "units_of_file"]

logger = logging.getLogger(__name__)

SOURCE_COLUMN = "__source"
ROW_COLUMN = "__row"
SAMPLE_ROWS = 1000
UNIT_BYTES = 64 << 20
FIRST_CSV_ROW = 2
"""Number that pyarrow gives the first row after the header."""


@dataclass(frozen=True)
class Unit:
    """A part of the input that one task reads.

    Attributes:
        file: The file.
        first_row: Position of its first row in the file.
        num_rows: Its rows, or None where only reading tells.
        row_groups: For Parquet: the row groups; None for the whole file.
    """

    file: SourceFile
    first_row: int = 0
    num_rows: int | None = None
    row_groups: tuple[int, ...] | None = None


def units_of_file(file: SourceFile, read_format: ReadFormat) -> list[Unit]:
    """The units of one file: Parquet files are cut between row groups into parts of about 64 MiB."""
    if read_format == "images":
        return [Unit(file, num_rows=1)]
    if read_format != "parquet":
        return [Unit(file)]
    with open_file(file.path) as stream:
        metadata = pq.ParquetFile(stream).metadata
    units: list[Unit] = []
    group: list[int] = []
    first_row = rows = num_bytes = 0
    for index in range(metadata.num_row_groups):
        group.append(index)
        rows += metadata.row_group(index).num_rows
        num_bytes += metadata.row_group(index).total_byte_size
        if num_bytes >= UNIT_BYTES or index == metadata.num_row_groups - 1:
            units.append(Unit(file, first_row, rows, tuple(group)))
            first_row, rows, num_bytes, group = first_row + rows, 0, 0, []
    return units


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
        schema = _SAMPLERS[read_format](file)
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
    for table, positions, errors in _READERS[read_format](unit, own, rows_per_table):
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


_Part = tuple[pa.Table, Sequence[int] | None, Sequence[RowError | None] | None]


# --- parquet


def _sample_parquet(file: SourceFile) -> pa.Schema:
    with open_file(file.path) as stream:
        return pq.read_schema(stream).remove_metadata()


def _read_parquet(unit: Unit, schema: pa.Schema, rows_per_table: int) -> Iterator[_Part]:
    with open_file(unit.file.path) as stream:
        file = pq.ParquetFile(stream, pre_buffer=True)
        groups = list(unit.row_groups) if unit.row_groups is not None else None
        missing = [name for name in schema.names if name not in file.schema_arrow.names]
        if missing:
            raise ConfigError(f"{unit.file.path}: has no column {', '.join(missing)}, which the first file has.")
        for batch in file.iter_batches(batch_size=rows_per_table, row_groups=groups, columns=schema.names):
            yield pa.Table.from_batches([batch]).select(schema.names).cast(schema), None, None


# --- jsonl


def _parse_line(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"line: expected a JSON object; it is not valid JSON ({error}).") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"line: expected a JSON object; got {type(value).__name__}.")
    return value


def _numbered_lines(stream: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines with something in them, and their numbers, from 0."""
    for number, line in enumerate(stream):
        stripped = line.rstrip(b"\r\n")
        if number == 0:
            stripped = stripped.removeprefix(b"\xef\xbb\xbf")
        if stripped.strip():
            yield number, stripped


def _sample_jsonl(file: SourceFile) -> pa.Schema:
    with open_file(file.path) as stream:
        lines = [line for _, line in itertools.islice(_numbered_lines(stream), SAMPLE_ROWS)]
    parsed = [attempt("read", partial(_parse_line, line)) for line in lines]
    rows = [row for row in parsed if isinstance(row, dict)]
    if lines and not rows:
        raise ConfigError(f"read.path: {file.path} has no line with a JSON object among its first {len(lines)}.")
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.schema([(name, _common_type([row.get(name) for row in rows])) for name in names])


def _common_type(values: Sequence[Any]) -> pa.DataType:
    """The type of most values: what a wrong-typed one is measured against."""
    kinds = Counter(type(value) for value in values if value is not None)
    if not kinds:
        return pa.string()
    if kinds.keys() <= {int, float}:
        kept = [value for value in values if value is not None]
    else:
        kind = kinds.most_common(1)[0][0]
        kept = [value for value in values if type(value) is kind]
    try:
        inferred = pa.array(kept).type
    except (pa.ArrowException, OverflowError):
        return pa.string()
    return pa.string() if pa.types.is_null(inferred) else inferred


def _read_jsonl(unit: Unit, schema: pa.Schema, rows_per_table: int) -> Iterator[_Part]:
    with open_file(unit.file.path) as stream:
        for numbered in _batched(_numbered_lines(stream), rows_per_table):
            rows = [attempt("read", partial(_parse_line, line)) for _, line in numbered]
            errors = [row if isinstance(row, RowError) else None for row in rows]
            columns = []
            for column in schema:
                values = [None if isinstance(row, RowError) else row.get(column.name) for row in rows]
                columns.append(_conform(values, column, errors, lambda values, to: pa.array(values, type=to)))
            yield pa.table(columns, schema=schema), [number for number, _ in numbered], errors


def _batched(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(values)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _conform(
    values: Any,
    column: pa.Field,
    errors: list[RowError | None],
    convert: Callable[[Any, pa.DataType], pa.Array],
) -> pa.Array:
    """The values in the column's type; a value that does not fit is null, and its row's error is noted in `errors`."""
    try:
        return convert(values, column.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        pass
    fitting: list[Any] = []
    for row, value in enumerate(values):
        one = attempt("read", partial(convert, [value], column.type))
        if isinstance(one, RowError):
            got = f"{type(value).__name__}" if not isinstance(value, str) else repr(value[:40])
            wrong = InvalidInput(f"{column.name}: expected {column.type}; got {got}.")
            errors[row] = errors[row] or RowError.from_exception("read", wrong)
            fitting.append(None)
        else:
            fitting.append(one[0].as_py())
    return pa.array(fitting, type=column.type)


# --- csv


def _csv_options(file: SourceFile) -> pa.csv.ParseOptions:
    return pa.csv.ParseOptions(delimiter="\t" if extension(file.path) == ".tsv" else ",", newlines_in_values=True)


def _sample_csv(file: SourceFile) -> pa.Schema:
    options = _csv_options(file)
    options.invalid_row_handler = lambda row: "skip"
    with open_file(file.path) as stream, pa.csv.open_csv(stream, parse_options=options) as reader:
        schema = reader.schema
    return pa.schema([(c.name, pa.string() if pa.types.is_null(c.type) else c.type) for c in schema])


def _read_csv(unit: Unit, schema: pa.Schema, rows_per_table: int) -> Iterator[_Part]:
    invalid: dict[int, RowError] = {}

    def note(row: Any) -> str:
        wrong = InvalidInput(f"line: expected {row.expected_columns} columns; got {row.actual_columns}.")
        invalid[row.number - FIRST_CSV_ROW] = RowError.from_exception("read", wrong)
        return "skip"

    options = _csv_options(unit.file)
    options.invalid_row_handler = note
    as_strings = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(schema.names, pa.string()), include_columns=schema.names, strings_can_be_null=False
    )
    with (
        open_file(unit.file.path) as stream,
        pa.csv.open_csv(
            stream,
            read_options=pa.csv.ReadOptions(use_threads=False),
            parse_options=options,
            convert_options=as_strings,
        ) as reader,
    ):
        row = 0
        for batch in reader:
            for start in range(0, batch.num_rows, rows_per_table):
                part = batch.slice(start, rows_per_table)
                positions: list[int] = []
                while len(positions) < part.num_rows:
                    positions += [row] if row not in invalid else []
                    row += 1
                errors: list[RowError | None] = [None] * part.num_rows
                columns = [_conform(part[c.name].to_pylist(), c, errors, _parse_strings) for c in schema]
                yield pa.table(columns, schema=schema), positions, errors
    if invalid:
        nulls = pa.table([pa.nulls(len(invalid), c.type) for c in schema], schema=schema)
        yield nulls, list(invalid), list(invalid.values())


def _parse_strings(values: list[str], to: pa.DataType) -> pa.Array:
    if pa.types.is_string(to):
        return pa.array(values, type=to)
    return pa.array([value if value != "" else None for value in values], type=pa.string()).cast(to)


# --- text


def _sample_text(file: SourceFile) -> pa.Schema:
    return pa.schema([("text", pa.string())])


def _read_text(unit: Unit, schema: pa.Schema, rows_per_table: int) -> Iterator[_Part]:
    with open_file(unit.file.path) as stream:
        for numbered in _batched(_numbered_lines(stream), rows_per_table):
            rows = [attempt("read", partial(line.decode, "utf-8")) for _, line in numbered]
            errors = [row if isinstance(row, RowError) else None for row in rows]
            texts = [None if isinstance(row, RowError) else row for row in rows]
            table = pa.table({"text": pa.array(texts, type=pa.string())}).select(schema.names)
            yield table, [number for number, _ in numbered], errors


# --- images


def _sample_images(file: SourceFile) -> pa.Schema:
    return pa.schema([("image", pa.binary()), ("path", pa.string())])


def _read_images(unit: Unit, schema: pa.Schema, rows_per_table: int) -> Iterator[_Part]:
    def read() -> bytes:
        with open_file(unit.file.path) as stream:
            data = stream.read()
            assert isinstance(data, bytes)
            return data

    data = attempt("read", read)
    error = data if isinstance(data, RowError) else None
    table = pa.table(
        {
            "image": pa.array([None if error else data], type=pa.binary()),
            "path": pa.array([unit.file.path], type=pa.string()),
        }
    )
    yield table.select(schema.names), [0], [error]


_SAMPLERS: dict[str, Callable[[SourceFile], pa.Schema]] = {
    "parquet": _sample_parquet,
    "jsonl": _sample_jsonl,
    "csv": _sample_csv,
    "text": _sample_text,
    "images": _sample_images,
}
_READERS: dict[str, Callable[[Unit, pa.Schema, int], Iterator[_Part]]] = {
    "parquet": _read_parquet,
    "jsonl": _read_jsonl,
    "csv": _read_csv,
    "text": _read_text,
    "images": _read_images,
}
