"""Arrow files, streamed or not: what `datasets.Dataset.save_to_disk` leaves in its folder, among others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from ray_pipelines.data.files import SourceFile
from ray_pipelines.data.formats.parquet import conformed
from ray_pipelines.data.formats.schema import left_out
from ray_pipelines.data.formats.unit import Part, Unit
from ray_pipelines.storage import FilesystemConfig, open_file

__all__ = ["read", "sample_schema", "units"]

MAGIC = b"ARROW1"


def sample_schema(file: SourceFile, filesystem: FilesystemConfig) -> pa.Schema:
    """The schema at the head of the file."""
    with open_file(file.path, filesystem) as stream:
        schema: pa.Schema = _opened(stream).schema
    return schema.remove_metadata()


def units(file: SourceFile, filesystem: FilesystemConfig) -> list[Unit]:
    """The file as one unit."""
    return [Unit(file)]


def read(unit: Unit, schema: pa.Schema, rows_per_table: int, filesystem: FilesystemConfig) -> Iterator[Part]:
    """The rows of its record batches."""
    with open_file(unit.file.path, filesystem) as stream:
        reader = _opened(stream)
        batches = (
            (reader.get_batch(index) for index in range(reader.num_record_batches))
            if isinstance(reader, pa.ipc.RecordBatchFileReader)
            else reader
        )
        unknown = left_out(reader.schema, schema)
        for batch in batches:
            for start in range(0, batch.num_rows, rows_per_table):
                yield conformed(batch.slice(start, rows_per_table), schema).with_left_out(unknown)


def _opened(stream: Any) -> Any:
    head = stream.read(len(MAGIC))
    stream.seek(0)
    return pa.ipc.open_file(stream) if head == MAGIC else pa.ipc.open_stream(stream)
