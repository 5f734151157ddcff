"""What results and dead letters look like as files: Parquet, JSON lines or WebDataset shards, whole and in memory.

A block becomes one file, or one per value of the partition columns. The same rows always make the same bytes.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_pipelines.arrow import empty_table
from ray_pipelines.config import WriteConfig
from ray_pipelines.data.files import NULL_PARTITION, extension
from ray_pipelines.data.json_values import json_rows, json_value
from ray_pipelines.errors import InvalidInput, RowError
from ray_pipelines.storage import FilesystemConfig, is_outage, no_answer, read_range, storage_errors

__all__ = [
    "EncodedFile",
    "Sink",
    "column_problems",
    "misplaced_rows",
    "partition_problems",
    "partitionable",
    "tar_rows",
]

MEDIA_THREADS = 16
MAX_MEDIUM_BYTES = 1 << 30
SIGNATURES = {
    b"\x89PNG": "png",
    b"\xff\xd8\xff": "jpg",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"fLaC": "flac",
    b"ID3": "mp3",
    b"OggS": "ogg",
    b"\x1a\x45\xdf\xa3": "webm",
}


PARTITION_TYPES = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_integer,
    pa.types.is_boolean,
    pa.types.is_date,
    pa.types.is_time,
    pa.types.is_timestamp,
)
"""Types of which pyarrow reads values out of the names of folders."""
PARTITION_NAME = re.compile(r"[^/=%]+")
"""A name that pyarrow finds again in that of a folder."""
MAX_NAME_BYTES = 255
"""Of a folder, on most filesystems."""


@dataclass(frozen=True)
class EncodedFile:
    """A file to write.

    Attributes:
        path: Its path below the folder of results or dead letters.
        num_rows: Its rows.
        data: Its content.
        unzipped_bytes: Size of gzipped JSON lines without compression.
    """

    path: str
    num_rows: int
    data: bytes
    unzipped_bytes: int | None = None


@dataclass(frozen=True)
class Sink:
    """How tables become files.

    Attributes:
        config: Format, compression, row groups and partition columns.
        media_filesystem: How files that rows name are reached, which a WebDataset holds itself.
    """

    config: WriteConfig
    media_filesystem: FilesystemConfig

    def results(self, table: pa.Table, name: str, provenance: str) -> Iterator[EncodedFile]:
        """The files of a table of results.

        Args:
            table: The rows.
            name: What the files are called, without an extension.
            provenance: JSON for the metadata of Parquet files.
        """
        for folder, part in _partitions(table, self.config.partition_by):
            if self.config.format == "webdataset":
                data, ending, unzipped_bytes = self._tar(part, name), "tar", None
            else:
                data, ending, unzipped_bytes = self._table(part, provenance)
            if self.config.compression == "gzip" and self.config.format == "webdataset":
                data, ending = gzip.compress(data, mtime=0), f"{ending}.gz"
            yield EncodedFile(f"{folder}{name}.{ending}", part.num_rows, data, unzipped_bytes)

    def dead_letters(self, table: pa.Table, name: str, provenance: str) -> Iterator[EncodedFile]:
        """The file of a table of dead letters; JSON lines beside WebDataset shards."""
        if table.num_rows:
            data, ending, unzipped_bytes = self._table(table, provenance)
            yield EncodedFile(f"{name}.{ending}", table.num_rows, data, unzipped_bytes)

    def _table(self, table: pa.Table, provenance: str) -> tuple[bytes, str, int | None]:
        """The content of a file, its extension, and its size without gzip where it has it."""
        if self.config.format == "parquet":
            buffer = pa.BufferOutputStream()
            table = table.replace_schema_metadata({b"ray_pipelines": provenance.encode()})
            compression = {"auto": "zstd", "none": "NONE"}.get(self.config.compression, self.config.compression)
            pq.write_table(table, buffer, compression=compression, row_group_size=self.config.rows_per_row_group)
            return buffer.getvalue().to_pybytes(), "parquet", None
        lines = (json.dumps(json_value(row), ensure_ascii=False, allow_nan=False) for row in json_rows(table))
        data = "".join(f"{line}\n" for line in lines).encode()
        if self.config.compression == "gzip":
            return gzip.compress(data, mtime=0), "jsonl.gz", len(data)
        return data, "jsonl", None

    def _tar(self, table: pa.Table, name: str) -> bytes:
        """One group of members per row: its media, each as a file, and everything else as `.json`.

        There an address also stays whose medium cannot be read: no task has needed it, or its row would be a dead
        letter.
        """
        media = [column.name for column in table.schema if _is_medium(column.type)]
        buffer = io.BytesIO()
        with (
            tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive,
            ThreadPoolExecutor(MEDIA_THREADS) as threads,
        ):
            for index, row in enumerate(json_rows(table)):
                key = f"{name}-{index:06}"
                values = [row.pop(column) for column in media]
                for column, value, (data, ending) in zip(media, values, threads.map(self._medium, values), strict=True):
                    if data is not None:
                        # One medium is called as in most WebDatasets, by its type alone.
                        _add(archive, f"{key}.{ending}" if len(media) == 1 else f"{key}.{column}.{ending}", data)
                    elif value is not None and value["path"]:
                        row[column] = value["path"]
                _add(archive, f"{key}.json", json.dumps(json_value(row), ensure_ascii=False, allow_nan=False).encode())
        return buffer.getvalue()

    def _medium(self, value: Any) -> tuple[bytes | None, str]:
        """The bytes of a medium and its extension."""
        path = value.get("path") if isinstance(value, dict) else None
        data = value.get("bytes") if isinstance(value, dict) else value
        if data is None and path:
            try:
                data = read_range(path, self.media_filesystem, MAX_MEDIUM_BYTES)
            except storage_errors() as error:
                if is_outage(error):
                    raise no_answer(path, error, self.media_filesystem) from None
        ending = extension(path).removeprefix(".") if path else ""
        return data, ending or _extension_of(data or b"")


def tar_rows(data: bytes) -> list[dict[str, Any]]:
    """What the `.json` members of a shard say."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = [archive.extractfile(member) for member in archive if member.name.endswith(".json")]
        return [json.load(file) for file in files if file is not None]


def _is_medium(kind: pa.DataType) -> bool:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    return pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}


def _extension_of(data: bytes) -> str:
    if data[:4] == b"RIFF":
        return {b"WAVE": "wav", b"WEBP": "webp", b"AVI ": "avi"}.get(data[8:12], "bin")
    if data[4:8] == b"ftyp":
        return "mp4"
    return next((ending for signature, ending in SIGNATURES.items() if data.startswith(signature)), "bin")


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _partitions(table: pa.Table, columns: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each combination of values, in order, with the folder that names it; empty tables give nothing."""
    if not columns:
        if table.num_rows:
            yield "", table
        return
    column, *others = columns
    values = table[column]
    for value in pc.unique(values).to_pylist():
        equal = pc.equal(values, pa.scalar(value, values.type))
        chosen = pc.is_null(values) if value is None else pc.fill_null(equal, False)
        folder = _folder_name(column, value)
        for deeper, part in _partitions(table.filter(chosen).drop_columns([column]), others):
            yield f"{folder}/{deeper}", part


def _folder_name(column: str, value: Any) -> str:
    return f"{column}={NULL_PARTITION if value is None else _partition_text(value)}"


def _partition_text(value: Any) -> str:
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    # The file of this text would be in the place of that of nulls.
    return quote(text, safe=" ") if text != NULL_PARTITION else f"%5F{text[1:]}"


def misplaced_rows(table: pa.Table, columns: Sequence[str]) -> list[RowError | None]:
    """Why rows cannot stand in the folders of their values, one error per row: a name is too long."""
    errors: list[RowError | None] = [None] * table.num_rows
    for column in columns:
        values = table[column]
        long = {
            value: num_bytes
            for value in pc.unique(values).to_pylist()
            if (num_bytes := len(_folder_name(column, value).encode())) > MAX_NAME_BYTES
        }
        for index, value in enumerate(values.to_pylist() if long else ()):
            if value in long:
                reason = f'column "{column}" has a value whose folder would have a name of {long[value]:,} bytes; '
                wrong = InvalidInput(f"write.partition_by: {reason}expected at most {MAX_NAME_BYTES}.")
                errors[index] = RowError.from_exception("write", wrong)
    return errors


def partition_problems(columns: Sequence[str], schema: pa.Schema, kept: Sequence[str]) -> list[str]:
    """Why results cannot be partitioned by `columns`."""
    problems = []
    for name, count in Counter(columns).items():
        if count > 1:
            problems.append(f'write.partition_by: has "{name}" {count} times. Name it once.')
        if name not in kept:
            problems.append(
                f'write.partition_by: expected columns that are kept; "{name}" is not. Add it to write.columns.'
            )
            continue
        if not PARTITION_NAME.fullmatch(name):
            problems.append(f'write.partition_by: expected names without / = and %, as of folders; got "{name}".')
        kind = schema.field(name).type
        if not any(is_kind(kind) for is_kind in PARTITION_TYPES) or kind == pa.time64("ns"):
            problems.append(f'write.partition_by: expected texts, whole numbers or dates; column "{name}" is {kind}.')
    return problems


def partitionable(schema: pa.Schema, columns: Sequence[str]) -> pa.Schema:
    """The schema in which partition columns have the types of their values, as names of folders are no dictionary."""
    for name in set(columns).intersection(schema.names):
        field = schema.field(name)
        if pa.types.is_dictionary(field.type):
            schema = schema.set(schema.get_field_index(name), field.with_type(field.type.value_type))
    return schema


def column_problems(write: WriteConfig, schema: pa.Schema) -> list[str]:
    """Why results cannot have the columns of `schema`."""
    is_parquet = write.format == "parquet"
    name, other = ("Parquet", "jsonl") if is_parquet else ("JSON", "parquet")
    return [
        f'write.columns: column "{field.name}" is {field.type}, which {name} cannot hold. Leave it out with '
        f"write.columns, or set write.format: {other}."
        for field in schema
        if (not _is_writable(field) if is_parquet else not _is_json(field.type))
    ]


def _is_json(kind: pa.DataType) -> bool:
    """Whether JSON can hold values of a type: no objects with two fields of one name, no months beside days."""
    fields = [kind.field(index) for index in range(kind.num_fields)]
    has_a_name_twice = pa.types.is_struct(kind) and len({field.name for field in fields}) < len(fields)
    return not has_a_name_twice and not pa.types.is_interval(kind) and all(_is_json(field.type) for field in fields)


def _is_writable(field: pa.Field) -> bool:
    try:
        pq.write_table(empty_table(pa.schema([field])), pa.BufferOutputStream())
    except (pa.ArrowException, OSError):
        return False
    return True
