"""JSON lines: one object per line; a line that is none, or does not fit the columns, is an error of its row."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from ray_pipelines.data.files import SourceFile, open_file
from ray_pipelines.data.formats.unit import SAMPLE_ROWS, Part, Unit, batched, conform, numbered_lines
from ray_pipelines.errors import ConfigError, InvalidInput, RowError, attempt

__all__ = ["read", "sample_schema", "units"]


def sample_schema(file: SourceFile) -> pa.Schema:
    """Names and types of the first rows."""
    with open_file(file.path) as stream:
        lines = [line for _, line in itertools.islice(numbered_lines(stream), SAMPLE_ROWS)]
    parsed = [attempt("read", partial(_parse_line, line)) for line in lines]
    rows = [row for row in parsed if isinstance(row, dict)]
    if lines and not rows:
        raise ConfigError(f"read.path: {file.path} has no line with a JSON object among its first {len(lines)}.")
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.schema([(name, _common_type([row.get(name) for row in rows])) for name in names])


def units(file: SourceFile) -> list[Unit]:
    """The file as one unit: only reading tells where its rows are."""
    return [Unit(file)]


def read(unit: Unit, schema: pa.Schema, rows_per_table: int) -> Iterator[Part]:
    """The rows of the lines with something in them; a row's position is its line, from 0."""
    with open_file(unit.file.path) as stream:
        for numbered in batched(numbered_lines(stream), rows_per_table):
            rows = [attempt("read", partial(_parse_line, line)) for _, line in numbered]
            errors = [row if isinstance(row, RowError) else None for row in rows]
            columns = []
            for column in schema:
                values = [None if isinstance(row, RowError) else row.get(column.name) for row in rows]
                columns.append(conform(values, column, errors, lambda values, to: pa.array(values, type=to)))
            yield Part(pa.table(columns, schema=schema), [number for number, _ in numbered], errors)


def _parse_line(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"line: expected a JSON object; it is not valid JSON ({error}).") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"line: expected a JSON object; got {type(value).__name__}.")
    return value


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
