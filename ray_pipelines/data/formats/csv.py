"""CSV and TSV with a header; a line with too many or too few values is an error of its row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.csv

from ray_pipelines.data.files import SourceFile, extension, open_file
from ray_pipelines.data.formats.unit import Part, Unit, conform
from ray_pipelines.errors import InvalidInput, RowError

__all__ = ["read", "sample_schema", "units"]

FIRST_ROW = 2
"""Number that pyarrow gives the first row after the header."""


def sample_schema(file: SourceFile) -> pa.Schema:
    """Names from the header, types from the first block."""
    options = _csv_options(file)
    options.invalid_row_handler = lambda row: "skip"
    with open_file(file.path) as stream, pa.csv.open_csv(stream, parse_options=options) as reader:
        schema = reader.schema
    return pa.schema([(c.name, pa.string() if pa.types.is_null(c.type) else c.type) for c in schema])


def units(file: SourceFile) -> list[Unit]:
    """The file as one unit: only reading tells where its rows are."""
    return [Unit(file)]


def read(unit: Unit, schema: pa.Schema, rows_per_table: int) -> Iterator[Part]:
    """The rows after the header, from 0; lines that do not fit come last."""
    invalid: dict[int, RowError] = {}

    def note(row: Any) -> str:
        wrong = InvalidInput(f"line: expected {row.expected_columns} columns; got {row.actual_columns}.")
        invalid[row.number - FIRST_ROW] = RowError.from_exception("read", wrong)
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
                columns = [conform(part[c.name].to_pylist(), c, errors, _parse_strings) for c in schema]
                yield Part(pa.table(columns, schema=schema), positions, errors)
    if invalid:
        nulls = pa.table([pa.nulls(len(invalid), c.type) for c in schema], schema=schema)
        yield Part(nulls, list(invalid), list(invalid.values()))


def _csv_options(file: SourceFile) -> pa.csv.ParseOptions:
    return pa.csv.ParseOptions(delimiter="\t" if extension(file.path) == ".tsv" else ",", newlines_in_values=True)


def _parse_strings(values: list[str], to: pa.DataType) -> pa.Array:
    if pa.types.is_string(to):
        return pa.array(values, type=to)
    return pa.array([value if value != "" else None for value in values], type=pa.string()).cast(to)
