"""CSV and TSV with a header; a line with too many or too few values is an error of its row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from ray_pipelines.data.files import SourceFile, extension
from ray_pipelines.data.formats.unit import Part, Unit, conform
from ray_pipelines.errors import InvalidInput, RowError
from ray_pipelines.storage import FilesystemConfig, open_file

__all__ = ["read", "sample_schema", "units"]

FIRST_ROW = 2
"""Number that pyarrow gives the first row after the header."""
BLOCK_BYTES = 16 << 20
"""What is parsed at once; no line may be longer."""


def sample_schema(file: SourceFile, filesystem: FilesystemConfig) -> pa.Schema:
    """Names from the header, types from the first block; none in an empty file."""
    options = _options(file)
    options.invalid_row_handler = lambda row: "skip"
    with open_file(file.path, filesystem) as stream:
        if not _peek(stream):
            return pa.schema([])
    with open_file(file.path, filesystem) as stream, pa.csv.open_csv(stream, parse_options=options) as reader:
        return reader.schema


def units(file: SourceFile, filesystem: FilesystemConfig) -> list[Unit]:
    """The file as one unit: only reading tells where its rows are."""
    return [Unit(file)]


def read(unit: Unit, schema: pa.Schema, rows_per_table: int, filesystem: FilesystemConfig) -> Iterator[Part]:
    """The rows after the header, from 0; lines that do not fit come last."""
    with open_file(unit.file.path, filesystem) as stream:
        if not _peek(stream):
            return
    invalid: dict[int, RowError] = {}

    def note(row: Any) -> str:
        wrong = InvalidInput(f"line: expected {row.expected_columns} columns; got {row.actual_columns}.")
        invalid[row.number - FIRST_ROW] = RowError.from_exception("read", wrong)
        return "skip"

    options = _options(unit.file)
    options.invalid_row_handler = note
    as_bytes = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(schema.names, pa.binary()),
        include_columns=schema.names,
        include_missing_columns=True,
        strings_can_be_null=False,
        null_values=[],
    )
    with (
        open_file(unit.file.path, filesystem) as stream,
        pa.csv.open_csv(
            stream,
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
            parse_options=options,
            convert_options=as_bytes,
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
                columns = [conform(part[column.name], column, errors, _parse) for column in schema]
                yield Part(pa.table(columns, schema=schema), positions, errors)
    if invalid:
        nulls = pa.table([pa.nulls(len(invalid), c.type) for c in schema], schema=schema)
        yield Part(nulls, list(invalid), list(invalid.values()))


def _options(file: SourceFile) -> pa.csv.ParseOptions:
    return pa.csv.ParseOptions(delimiter="\t" if extension(file.path) == ".tsv" else ",", newlines_in_values=True)


def _peek(stream: Any) -> bytes:
    """The first line with something in it, or nothing."""
    while line := stream.readline(1 << 16):
        if line.strip(b"\xef\xbb\xbf\r\n"):
            assert isinstance(line, bytes)
            return line
    return b""


def _parse(values: pa.Array, to: pa.DataType) -> pa.Array:
    texts = values.cast(pa.string())
    if pa.types.is_string(to):
        return texts
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts).cast(to)
