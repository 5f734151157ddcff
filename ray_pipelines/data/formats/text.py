"""Text: one row per line that has something in it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pyarrow as pa

from ray_pipelines.data.files import SourceFile, open_file
from ray_pipelines.data.formats.unit import Part, Unit, batched, numbered_lines
from ray_pipelines.errors import RowError, attempt

__all__ = ["read", "sample_schema", "units"]


def sample_schema(file: SourceFile) -> pa.Schema:
    """The one column."""
    return pa.schema([("text", pa.string())])


def units(file: SourceFile) -> list[Unit]:
    """The file as one unit: only reading tells where its rows are."""
    return [Unit(file)]


def read(unit: Unit, schema: pa.Schema, rows_per_table: int) -> Iterator[Part]:
    """The lines; a row's position is its line, from 0."""
    with open_file(unit.file.path) as stream:
        for numbered in batched(numbered_lines(stream), rows_per_table):
            rows = [attempt("read", partial(line.decode, "utf-8")) for _, line in numbered]
            errors = [row if isinstance(row, RowError) else None for row in rows]
            texts = [None if isinstance(row, RowError) else row for row in rows]
            table = pa.table({"text": pa.array(texts, type=pa.string())}).select(schema.names)
            yield Part(table, [number for number, _ in numbered], errors)
