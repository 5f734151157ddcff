"""Images: one row per file."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from ray_pipelines.data.files import SourceFile, open_file
from ray_pipelines.data.formats.unit import Part, Unit
from ray_pipelines.errors import RowError, attempt

__all__ = ["read", "sample_schema", "units"]


def sample_schema(file: SourceFile) -> pa.Schema:
    """The file's bytes and its path."""
    return pa.schema([("image", pa.binary()), ("path", pa.string())])


def units(file: SourceFile) -> list[Unit]:
    """The file, which is one row."""
    return [Unit(file, num_rows=1)]


def read(unit: Unit, schema: pa.Schema, rows_per_table: int) -> Iterator[Part]:
    """The one row."""

    def content() -> bytes:
        with open_file(unit.file.path) as stream:
            data = stream.read()
            assert isinstance(data, bytes)
            return data

    data = attempt("read", content)
    error = data if isinstance(data, RowError) else None
    table = pa.table(
        {
            "image": pa.array([None if error else data], type=pa.binary()),
            "path": pa.array([unit.file.path], type=pa.string()),
        }
    )
    yield Part(table.select(schema.names), [0], [error])
