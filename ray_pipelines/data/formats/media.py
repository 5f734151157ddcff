"""Images, recordings, videos and other files: one row per file.

A row of media names its file in a `{bytes, path}` struct whose bytes are null, as Hugging Face datasets do: the file is
opened where it is decoded, so that blocks stay small however large the files are. Rows of `binary` hold the bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pyarrow as pa

from ray_pipelines.arrow import IMAGE_TYPE
from ray_pipelines.config import ReadFormat
from ray_pipelines.data.files import SourceFile
from ray_pipelines.data.formats.unit import Part, Unit
from ray_pipelines.errors import RowError, attempt
from ray_pipelines.storage import FilesystemConfig, open_file, read_range

__all__ = ["BinaryFiles", "MediaFiles"]

COLUMNS = {"images": "image", "audio": "audio", "video": "video"}


class MediaFiles:
    """Reader of one kind of media; the bytes are left in the file.

    Args:
        read_format: `images`, `audio` or `video`.
    """

    def __init__(self, read_format: ReadFormat) -> None:
        self.schema = pa.schema([(COLUMNS[read_format], IMAGE_TYPE), ("path", pa.string())])

    def sample_schema(self, file: SourceFile, filesystem: FilesystemConfig) -> pa.Schema:
        """The medium and its path."""
        with open_file(file.path, filesystem, random_access=True):
            return self.schema

    def units(self, file: SourceFile, filesystem: FilesystemConfig) -> list[Unit]:
        """The file, which is one row."""
        return [Unit(file, num_rows=1)]

    def read(self, unit: Unit, schema: pa.Schema, rows_per_table: int, filesystem: FilesystemConfig) -> Iterator[Part]:
        """The one row."""
        medium = pa.array([{"bytes": None, "path": unit.file.path}], type=IMAGE_TYPE)
        yield Part(pa.table([medium, pa.array([unit.file.path])], schema=self.schema).select(schema.names), [0])


class BinaryFiles:
    """Reader of any file as bytes."""

    schema = pa.schema([("bytes", pa.binary()), ("path", pa.string())])

    def sample_schema(self, file: SourceFile, filesystem: FilesystemConfig) -> pa.Schema:
        """The file's bytes and its path."""
        with open_file(file.path, filesystem, random_access=True):
            return self.schema

    def units(self, file: SourceFile, filesystem: FilesystemConfig) -> list[Unit]:
        """The file, which is one row."""
        return [Unit(file, num_rows=1)]

    def read(self, unit: Unit, schema: pa.Schema, rows_per_table: int, filesystem: FilesystemConfig) -> Iterator[Part]:
        """The one row."""
        data: bytes | RowError | None = None
        if "bytes" in schema.names:
            data = attempt("read", partial(read_range, unit.file.path, filesystem, max(1, unit.file.num_bytes)))
        error = data if isinstance(data, RowError) else None
        content = pa.array([None if isinstance(data, RowError) else data], type=pa.binary())
        table = pa.table([content, pa.array([unit.file.path])], schema=self.schema)
        yield Part(table.select(schema.names), [0], [error])
