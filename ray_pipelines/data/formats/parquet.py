"""Parquet: only the columns that are asked for are read, and a large file is cut between its row groups."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from ray_pipelines.data.files import SourceFile, open_file
from ray_pipelines.data.formats.unit import Part, Unit
from ray_pipelines.errors import ConfigError

__all__ = ["read", "sample_schema", "units"]

UNIT_BYTES = 64 << 20


def sample_schema(file: SourceFile) -> pa.Schema:
    """The schema in the footer."""
    with open_file(file.path) as stream:
        return pq.read_schema(stream).remove_metadata()


def units(file: SourceFile) -> list[Unit]:
    """Row groups, gathered to parts of about 64 MiB."""
    with open_file(file.path) as stream:
        metadata = pq.ParquetFile(stream).metadata
    found: list[Unit] = []
    group: list[int] = []
    first_row = rows = num_bytes = 0
    for index in range(metadata.num_row_groups):
        group.append(index)
        rows += metadata.row_group(index).num_rows
        num_bytes += metadata.row_group(index).total_byte_size
        if num_bytes >= UNIT_BYTES or index == metadata.num_row_groups - 1:
            found.append(Unit(file, first_row, rows, tuple(group)))
            first_row, rows, num_bytes, group = first_row + rows, 0, 0, []
    return found


def read(unit: Unit, schema: pa.Schema, rows_per_table: int) -> Iterator[Part]:
    """The rows of the unit's row groups."""
    with open_file(unit.file.path) as stream:
        file = pq.ParquetFile(stream, pre_buffer=True)
        groups = list(unit.row_groups) if unit.row_groups is not None else None
        missing = [name for name in schema.names if name not in file.schema_arrow.names]
        if missing:
            raise ConfigError(f"{unit.file.path}: has no column {', '.join(missing)}, which the first file has.")
        for batch in file.iter_batches(batch_size=rows_per_table, row_groups=groups, columns=schema.names):
            yield Part(pa.Table.from_batches([batch]).select(schema.names).cast(schema))
