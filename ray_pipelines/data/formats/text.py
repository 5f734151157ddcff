"""Text: one row per line that has something in it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pyarrow as pa

from ray_pipelines.data.files import SourceFile
from ray_pipelines.data.formats.jsonl import table_of_rows
from ray_pipelines.data.formats.unit import Part, Unit, batched, first_of, numbered_lines
from ray_pipelines.errors import RowError, attempt
from ray_pipelines.storage import FilesystemConfig, open_file

__all__ = ["read", "sample_schema", "units"]


def sample_schema(file: SourceFile, filesystem: FilesystemConfig) -> pa.Schema:
    """The one column."""
    with open_file(file.path, filesystem) as stream:
        first_of(numbered_lines(stream), 1)
    return pa.schema([("text", pa.string())])


def units(file: SourceFile, filesystem: FilesystemConfig) -> list[Unit]:
    """The file as one unit: only reading tells where its rows are."""
    return [Unit(file)]


def read(unit: Unit, schema: pa.Schema, rows_per_table: int, filesystem: FilesystemConfig) -> Iterator[Part]:
    """The lines; a row's position is its line, from 0."""
    with open_file(unit.file.path, filesystem) as stream:
        for numbered in batched(numbered_lines(stream), rows_per_table):
            rows = [attempt("read", partial(_row, line)) for _, line in numbered]
            yield table_of_rows(rows, [number for number, _ in numbered], schema)


def _row(line: bytes | RowError) -> dict[str, str]:
    if isinstance(line, RowError):
        raise line
    return {"text": line.decode("utf-8")}
