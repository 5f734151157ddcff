"""WebDataset: tar shards in which the files of one name, up to its first dot, are the columns of one row.

    000017.jpg  000017.txt  000017.json     →  {__key__: "000017", jpg: bytes, txt: "…", json: {…}}

Texts, whole numbers and JSON are told by their extension, everything else is bytes. A member that cannot be parsed is
an error of its row; a broken archive ends in one error in the place of the next row.
"""

from __future__ import annotations

import itertools
import posixpath
import tarfile
from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa
from typing_extensions import Self

from ray_pipelines.data.files import SourceFile
from ray_pipelines.data.formats.jsonl import common_field, parse_json, table_of_rows
from ray_pipelines.data.formats.unit import PART_BYTES, Part, Unit, first_of
from ray_pipelines.errors import InvalidInput, RowError, attempt
from ray_pipelines.storage import FilesystemConfig, open_file

__all__ = ["KEY", "read", "sample_schema", "units"]

KEY = "__key__"
TEXTS = ("txt", "text", "transcript", "caption")
NUMBERS = ("cls", "cls2", "class", "count", "index", "inx", "id")
SAMPLE_ROWS = 100
MAX_MEMBER_BYTES = 1 << 30
NOT_READ = object()
"""The value of a member that has something in it, where no column is for it."""


class _StrictTarInfo(tarfile.TarInfo):
    """Raises on a header that is broken, which `tarfile` would take for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise OSError(f"the archive is broken: {error}") from None


def sample_schema(file: SourceFile, filesystem: FilesystemConfig) -> pa.Schema:
    """The extensions of the first rows, and their types."""
    with open_file(file.path, filesystem) as stream:
        rows = [row for row, _ in first_of(_rows(stream, None), SAMPLE_ROWS)]
    parsed = [row for row in rows if not isinstance(row, RowError)]
    names = dict.fromkeys([KEY, *(name for row in parsed for name in row)])
    return pa.schema([_field_of(name, [row.get(name) for row in parsed]) for name in names])


def units(file: SourceFile, filesystem: FilesystemConfig) -> list[Unit]:
    """The shard as one unit."""
    return [Unit(file)]


def read(unit: Unit, schema: pa.Schema, rows_per_table: int, filesystem: FilesystemConfig) -> Iterator[Part]:
    """The rows of the shard; a row's position counts rows, not members."""
    first = 0
    rows: list[dict[str, Any] | RowError] = []
    num_bytes = 0
    with open_file(unit.file.path, filesystem) as stream:
        found = _rows(stream, frozenset(schema.names))
        while True:
            one = attempt("read", partial(next, found, None))
            failed = isinstance(one, RowError)
            if rows and (one is None or failed or len(rows) == rows_per_table or num_bytes >= PART_BYTES):
                yield table_of_rows(rows, range(first, first + len(rows)), schema)
                first, rows, num_bytes = first + len(rows), [], 0
            if one is None:
                return
            if isinstance(one, RowError):
                raise one.__cause__ or one
            rows.append(one[0])
            num_bytes += one[1]


def _field_of(name: str, values: list[Any]) -> pa.Field:
    known = common_field(name, values)
    has_bytes = pa.types.is_null(known.type) and name not in (*TEXTS, *NUMBERS, "json")
    return pa.field(name, pa.binary()) if has_bytes else known


def _rows(stream: Any, wanted: frozenset[str] | None) -> Iterator[tuple[dict[str, Any] | RowError, int]]:
    """The rows of an archive, or why one is none, with the bytes of each; only `wanted` columns are read."""
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_StrictTarInfo) as archive:
        members = filter(None, map(_named, archive))
        for key, group in itertools.groupby(members, key=lambda named: named[0]):
            row: dict[str, Any] = {KEY: key}
            error: RowError | None = None
            num_bytes = 0
            for _, column, member in group:
                if wanted is not None and column not in wanted:
                    row[column] = NOT_READ if member.size else None
                    continue
                if column in row:
                    error = RowError("read", "InvalidInput", f"{key}.{column}: is in the archive twice for this row.")
                    continue
                if member.size > MAX_MEMBER_BYTES:
                    reason = f"{member.name}: has {member.size:,} bytes; expected at most {MAX_MEMBER_BYTES:,}."
                    error = RowError("read", "InvalidInput", reason)
                    continue
                file = archive.extractfile(member)
                data = file.read() if file is not None else b""
                num_bytes += len(data)
                value = attempt("read", partial(_parse, column, data))
                row[column] = None if isinstance(value, RowError) else value
                error = value if isinstance(value, RowError) else error
            yield error or row, num_bytes


def _named(member: tarfile.TarInfo) -> tuple[str, str, tarfile.TarInfo] | None:
    """The row and column that a member belongs to; None for folders, links and hidden files."""
    folder, name = posixpath.split(member.name)
    if not member.isfile() or name.startswith("."):
        return None
    stem, _, column = name.partition(".")
    return posixpath.join(folder, stem), column.lower(), member


def _parse(column: str, data: bytes) -> Any:
    ending = column.rsplit(".", 1)[-1]
    if ending in TEXTS:
        return data.decode("utf-8")
    if ending in NUMBERS:
        return int(data)
    if ending != "json":
        return data
    try:
        return parse_json(data)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{column}: expected JSON; it is not valid ({error}).") from None
