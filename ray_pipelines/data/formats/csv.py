"""CSV and TSV with a header; a line with too many or too few values is an error of its row."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from ray_pipelines.data.files import SourceFile, extension
from ray_pipelines.data.formats.schema import left_out
from ray_pipelines.data.formats.unit import Part, Unit, check_encoding, conform
from ray_pipelines.errors import InvalidInput, RowError
from ray_pipelines.storage import FilesystemConfig, open_file

__all__ = ["read", "sample_schema", "units"]

FIRST_ROW = 2
"""Number that pyarrow gives the first row after the header."""
UTF8, BYTES = "utf8", "latin-1"
"""latin-1 has a character for every byte, so that nothing is lost."""
NOT_UTF8 = (UnicodeDecodeError, pa.ArrowInvalid)
"""What pyarrow raises instead of asking what to do with a line that does not fit; so it does for other reasons."""
NULLS = pa.array(pa.csv.ConvertOptions().null_values)
"""What pyarrow takes for no value, such as NA, when it tells types; in a column of texts it is a text."""
LONG_INTEGER = r"^[ \t]*[+-]?[0-9]{16,}[ \t]*$"
SAMPLE_BYTES = 1 << 20
BLOCK_BYTES = 16 << 20
"""What is parsed at once; no line may be longer."""


def sample_schema(file: SourceFile, filesystem: FilesystemConfig) -> pa.Schema:
    """Names from the header, types from the first block; none in an empty file.

    Long whole numbers that are no integers of Arrow, such as ids, stay texts: as floats they would be others.
    """
    options = _options(file)
    options.invalid_row_handler = lambda row: "skip"
    with open_file(file.path, filesystem) as stream:
        if not _peek(stream):
            return pa.schema([])

    def first_batch(reading: pa.csv.ReadOptions, texts: list[str]) -> pa.RecordBatch:
        converting = pa.csv.ConvertOptions(column_types=dict.fromkeys(texts, pa.string()))
        with (
            open_file(file.path, filesystem) as stream,
            pa.csv.open_csv(stream, read_options=reading, parse_options=options, convert_options=converting) as reader,
        ):
            return next(iter(reader), pa.RecordBatch.from_pylist([], reader.schema))

    def found(encoding: str, block_bytes: int) -> pa.Schema:
        reading = pa.csv.ReadOptions(encoding=encoding, block_size=block_bytes)
        batch = first_batch(reading, [])
        floats = [column.name for column in batch.schema if pa.types.is_floating(column.type)]
        shown = first_batch(reading, floats) if floats else batch
        long = {name for name in floats if pc.any(pc.match_substring_regex(shown[name], LONG_INTEGER)).as_py()}
        names = batch.schema.names
        # Arrow takes values that are not UTF-8 for bytes; here they are texts that fail their rows.
        types = [pa.string() if pa.types.is_binary(c.type) or c.name in long else c.type for c in batch.schema]
        if encoding == BYTES:
            names = [name.encode(BYTES).decode(UTF8, "replace") for name in names]
        return pa.schema(list(zip(names, types, strict=True)))

    try:
        return found(UTF8, SAMPLE_BYTES)
    except NOT_UTF8:
        # A line may also be longer than a block.
        for encoding, block_bytes in ((BYTES, SAMPLE_BYTES), (UTF8, BLOCK_BYTES)):
            with suppress(*NOT_UTF8):
                return found(encoding, block_bytes)
        return found(BYTES, BLOCK_BYTES)


def units(file: SourceFile, filesystem: FilesystemConfig) -> list[Unit]:
    """The file as one unit: only reading tells where its rows are."""
    return [Unit(file)]


def read(unit: Unit, schema: pa.Schema, rows_per_table: int, filesystem: FilesystemConfig) -> Iterator[Part]:
    """The rows after the header, from 0; lines that do not fit come last."""
    with open_file(unit.file.path, filesystem) as stream:
        header = _peek(stream)
        if not header:
            return
    unknown = left_out(pa.schema([(name, pa.string()) for name in _names(header, unit.file)]), schema)
    last = -1
    try:
        for table, positions, errors in _parts(unit, schema, rows_per_table, filesystem, UTF8):
            last = max(positions, default=last)
            yield Part(table, positions, errors).with_left_out(unknown)
    except NOT_UTF8:
        # pyarrow stops at a line that has too many values and is not UTF-8: it cannot show it to `note`.
        for table, positions, errors in _parts(unit, schema, rows_per_table, filesystem, BYTES):
            first = next((index for index, position in enumerate(positions) if position > last), None)
            if first is not None:
                yield Part(table.slice(first), positions[first:], errors[first:]).with_left_out(unknown)


def _parts(
    unit: Unit, schema: pa.Schema, rows_per_table: int, filesystem: FilesystemConfig, encoding: str
) -> Iterator[tuple[pa.Table, list[int], list[RowError | None]]]:
    """The rows of a file that has some, read as UTF-8 or as bytes, with their positions and errors.

    Raises:
        UnicodeDecodeError, ArrowInvalid: A line that does not fit is not of this encoding.
    """
    invalid: dict[int, RowError] = {}

    def note(row: Any) -> str:
        wrong = InvalidInput(f"line: expected {row.expected_columns} columns; got {row.actual_columns}.")
        invalid[row.number - FIRST_ROW] = RowError.from_exception("read", wrong)
        return "skip"

    options = _options(unit.file)
    options.invalid_row_handler = note
    names = {name: _shown(name) if encoding == BYTES else name for name in schema.names}
    as_bytes = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(names.values(), pa.binary()),
        include_columns=list(names.values()),
        include_missing_columns=True,
        strings_can_be_null=False,
        null_values=[],
    )
    with (
        open_file(unit.file.path, filesystem) as stream,
        pa.csv.open_csv(
            stream,
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES, encoding=encoding),
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
                values = {name: part[shown] for name, shown in names.items()}
                if encoding == BYTES:
                    values = {
                        name: pa.array(map(_true_bytes, column.to_pylist()), pa.binary())
                        for name, column in values.items()
                    }
                columns = [conform(values[column.name], column, errors, _parse) for column in schema]
                yield pa.table(columns, schema=schema), positions, errors
    if invalid:
        nulls = pa.table([pa.nulls(len(invalid), c.type) for c in schema], schema=schema)
        yield nulls, list(invalid), list(invalid.values())


def _true_bytes(shown: bytes | None) -> bytes | None:
    """What stands in the file, of a value that was read as `BYTES`; None where the file lacks the column."""
    return None if shown is None else shown.decode(UTF8).encode(BYTES)


def _shown(name: str) -> str:
    """How the name of a column looks when it is read as `BYTES`."""
    return name.encode(UTF8).decode(BYTES)


def _options(file: SourceFile) -> pa.csv.ParseOptions:
    return pa.csv.ParseOptions(delimiter="\t" if extension(file.path) == ".tsv" else ",", newlines_in_values=True)


def _peek(stream: Any) -> bytes:
    """The first line with something in it, or nothing.

    Raises:
        InvalidInput: The file is not in UTF-8.
    """
    while line := stream.readline(1 << 16):
        check_encoding(line)
        if line.strip(b"\xef\xbb\xbf\r\n"):
            assert isinstance(line, bytes)
            return line
    return b""


def _names(header: bytes, file: SourceFile) -> list[str]:
    """The names in the header; none where it is more than a line."""
    text = header.decode("utf-8-sig", "replace").rstrip("\r\n")
    try:
        return next(csv.reader([text], delimiter=_options(file).delimiter, strict=True))
    except csv.Error:
        return []


def _parse(values: pa.Array, to: pa.DataType) -> pa.Array:
    texts = values.cast(pa.string())
    if pa.types.is_string(to):
        return texts
    trimmed = pc.utf8_trim(texts, " \t")
    known = pc.if_else(pc.is_in(trimmed, NULLS), pa.scalar(None, pa.string()), trimmed)
    if pa.types.is_time(to):
        # Arrow casts no texts to times of day, but to times of a day.
        return pc.binary_join_element_wise("1970-01-01", known, " ").cast(pa.timestamp(to.unit)).cast(to)
    return known.cast(to)
