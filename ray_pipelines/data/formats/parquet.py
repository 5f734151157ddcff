"""Parquet: only the columns that are asked for are read, and a large file is cut between its row groups."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from ray_pipelines.data.files import SourceFile
from ray_pipelines.data.formats.schema import left_out
from ray_pipelines.data.formats.unit import Part, Unit, conform
from ray_pipelines.errors import RowError
from ray_pipelines.storage import FilesystemConfig, open_file

__all__ = ["conformed", "read", "sample_schema", "units"]

UNIT_BYTES = 64 << 20
NOT_CAST = ("list_view", "run_end_encoded")
"""Types that Arrow does not cast, or to arrays that are not valid."""


def sample_schema(file: SourceFile, filesystem: FilesystemConfig) -> pa.Schema:
    """The schema in the footer."""
    with open_file(file.path, filesystem, random_access=True) as stream:
        return pq.read_schema(stream).remove_metadata()


def units(file: SourceFile, filesystem: FilesystemConfig) -> list[Unit]:
    """Row groups, gathered to parts of about 64 MiB."""
    with open_file(file.path, filesystem, random_access=True) as stream:
        metadata = pq.read_metadata(stream)
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


def read(unit: Unit, schema: pa.Schema, rows_per_table: int, filesystem: FilesystemConfig) -> Iterator[Part]:
    """The rows of the unit's row groups; a column that this file lacks is null, another type is converted."""
    with open_file(unit.file.path, filesystem, random_access=True) as stream:
        file = pq.ParquetFile(stream, pre_buffer=True)
        groups = list(unit.row_groups) if unit.row_groups is not None else None
        present = [name for name in schema.names if name in file.schema_arrow.names]
        # Without any column there would be no rows to count.
        columns = present or file.schema_arrow.names[:1]
        unknown = left_out(file.schema_arrow, schema)
        for batch in file.iter_batches(batch_size=rows_per_table, row_groups=groups, columns=columns):
            yield conformed(batch, schema).with_left_out(unknown)


def conformed(batch: pa.RecordBatch, schema: pa.Schema) -> Part:
    """The columns of `schema` out of a batch: missing ones are null, other types converted, row by row if need be."""
    errors: list[RowError | None] = [None] * batch.num_rows
    arrays = []
    for column in schema:
        if column.name not in batch.schema.names:
            arrays.append(pa.nulls(batch.num_rows, column.type))
        elif batch[column.name].type == column.type:
            arrays.append(batch[column.name])
        else:
            arrays.append(conform(batch[column.name], column, errors, _cast))
    return Part(pa.table(arrays, schema=schema), None, errors if any(errors) else None)


def _cast(values: pa.Array, to: pa.DataType) -> pa.Array:
    if any(name in str(values.type) for name in NOT_CAST):
        return pa.array(values.to_pylist(), type=to)
    return values.cast(to)
