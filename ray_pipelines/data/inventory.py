"""The input of a run, as it was when the run began: every file with a number, its version, and its units.

A row is known by the number of its file and its position there, as one integer. The inventory is kept in the output
(`_run/sources.parquet`), so that a later run of the same job gives the same rows the same integers, and sees which
files have changed, have gone, or are new.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyroaring import BitMap64

from ray_pipelines.config import ReadFormat
from ray_pipelines.data.files import SourceFile
from ray_pipelines.data.folder import Folder
from ray_pipelines.data.formats import Unit, read_unit, units_of_file
from ray_pipelines.errors import ConfigError
from ray_pipelines.storage import FilesystemConfig

__all__ = ["Changes", "Inventory", "PlannedUnit", "source_of"]

ROW_BITS = 40
METADATA_THREADS = 16
NAMED_FILES = 3


@dataclass(frozen=True)
class PlannedUnit:
    """A unit of the input and the integers of its rows.

    Attributes:
        unit: The unit.
        source: Number of its file.
        base: Integer of the first position of its file.
        max_rows: Rows to read of it, or None for all (`read.limit`).
    """

    unit: Unit
    source: int
    base: int
    max_rows: int | None = None

    @property
    def num_rows(self) -> int | None:
        """Its rows, or None where only reading tells."""
        known = [number for number in (self.unit.num_rows, self.max_rows) if number is not None]
        return min(known, default=None)

    @property
    def ids(self) -> range | None:
        """The integers of its rows, where they are known before reading."""
        if self.unit.num_rows is None or self.num_rows is None:
            return None
        first = self.base + self.unit.first_row
        return range(first, first + self.num_rows)


@dataclass(frozen=True)
class Changes:
    """What has become of the files of an inventory.

    Attributes:
        changed: Files with another content.
        vanished: Files that are not there any more.
        new: Files that were not there.
    """

    changed: tuple[str, ...]
    vanished: tuple[str, ...]
    new: tuple[SourceFile, ...]

    def problems(self) -> list[str]:
        """Changed and vanished files, for people."""
        return [
            f"read.path: {len(paths):,} file(s) {what} since the run began: {_some(paths)}."
            for paths, what in ((self.changed, "have changed"), (self.vanished, "have vanished"))
            if paths
        ]

    def new_files(self) -> str:
        """New files, for people."""
        return f"{len(self.new):,} new file(s): {_some([file.path for file in self.new])}"


@dataclass(frozen=True)
class Inventory:
    """The input of a run.

    Attributes:
        read_format: Format of the files.
        files: The files; their order is their number.
        units: The units of each, cut at `read.limit`.
    """

    read_format: ReadFormat
    files: tuple[SourceFile, ...]
    units: tuple[tuple[PlannedUnit, ...], ...]

    @classmethod
    def of(cls, files: Sequence[SourceFile], read_format: ReadFormat, filesystem: FilesystemConfig) -> Inventory:
        """The inventory of files, whose footers are read where they tell the units."""
        return cls(read_format, (), ()).with_files(files, filesystem)

    def with_files(self, files: Sequence[SourceFile], filesystem: FilesystemConfig) -> Inventory:
        """This inventory with more files."""
        with ThreadPoolExecutor(METADATA_THREADS) as threads:
            units = list(
                threads.map(partial(units_of_file, read_format=self.read_format, filesystem=filesystem), files)
            )
        planned = [_planned(of_file, len(self.files) + index) for index, of_file in enumerate(units)]
        return dataclasses.replace(self, files=(*self.files, *files), units=(*self.units, *planned))

    def limited(self, limit: int, schema: pa.Schema, filesystem: FilesystemConfig) -> Inventory:
        """The inventory of the first rows only; files whose rows nobody knows are read until there are enough.

        Args:
            limit: Rows.
            schema: Columns to read, as a job reads them.
            filesystem: How files are reached.
        """
        cut: list[tuple[PlannedUnit, ...]] = []
        left = limit
        for of_file in self.units:
            kept: list[PlannedUnit] = []
            for planned in of_file:
                if left <= 0:
                    break
                num_rows = planned.num_rows
                if num_rows is None:
                    num_rows = _count_rows(planned.unit, self.read_format, schema, left, filesystem)
                kept.append(dataclasses.replace(planned, max_rows=left) if num_rows >= left else planned)
                left -= num_rows
            cut.append(tuple(kept))
        return dataclasses.replace(self, units=tuple(cut))

    @property
    def all_units(self) -> list[PlannedUnit]:
        """The units of all files."""
        return [unit for of_file in self.units for unit in of_file]

    @property
    def num_rows(self) -> int | None:
        """Rows of all units, or None where only reading tells."""
        known = [unit.num_rows for unit in self.all_units]
        return None if None in known else sum(number for number in known if number is not None)

    def ids_of_file(self, source: int) -> range:
        """The integers that the rows of a file can have."""
        return _ids_of_file([planned.unit for planned in self.units[source]], source)

    def ids_of_rows(self, sources: Iterable[str], rows: Iterable[int]) -> list[int]:
        """The integers of rows that are known by the path of their file and their position."""
        bases = {file.path: self.ids_of_file(index).start for index, file in enumerate(self.files)}
        return [bases[source] + row for source, row in zip(sources, rows, strict=True)]

    def changes(self, files: Iterable[SourceFile]) -> Changes:
        """What has become of the files, now that there are `files`."""
        now = {file.path: file for file in files}
        then = {file.path: file for file in self.files}
        same = ("num_bytes", "version")
        return Changes(
            changed=tuple(
                path
                for path, file in then.items()
                if path in now and any(getattr(now[path], key) != getattr(file, key) for key in same)
            ),
            vanished=tuple(path for path in then if path not in now),
            new=tuple(file for path, file in now.items() if path not in then),
        )

    def digest(self) -> str:
        """A fingerprint of all files and their versions."""
        digest = hashlib.blake2b(digest_size=16)
        for file in self.files:
            digest.update(f"{file.path}\0{file.num_bytes}\0{file.version}\n".encode())
        return digest.hexdigest()

    def paths_of_rows(self, rows: BitMap64) -> set[str]:
        """The files that some rows are in."""
        ids = map(self.ids_of_file, range(len(self.files)))
        return {
            file.path for file, own in zip(self.files, ids, strict=True) if rows.range_cardinality(own.start, own.stop)
        }

    def to_bytes(self) -> bytes:
        """The inventory as a Parquet file."""
        table = pa.table(
            {
                "path": pa.array([file.path for file in self.files], type=pa.string()),
                "num_bytes": pa.array([file.num_bytes for file in self.files], type=pa.int64()),
                "version": pa.array([file.version for file in self.files], type=pa.string()),
                "partition": pa.array([json.dumps(file.partition) for file in self.files], type=pa.string()),
                "units": pa.array([_units_to_json(of_file) for of_file in self.units], type=pa.string()),
            }
        ).replace_schema_metadata({"read_format": self.read_format})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        data = sink.getvalue().to_pybytes()
        assert isinstance(data, bytes)
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> Inventory:
        """The inventory that `to_bytes` has written."""
        table = pq.read_table(pa.py_buffer(data))
        rows = table.to_pylist()
        files = [
            SourceFile(row["path"], row["num_bytes"], json.loads(row["partition"]), row["version"]) for row in rows
        ]
        units = [_units_of_json(row["units"], files[index], index) for index, row in enumerate(rows)]
        return cls(table.schema.metadata[b"read_format"].decode(), tuple(files), tuple(units))

    @classmethod
    def read(cls, folder: Folder, name: str, remedy: str) -> Inventory:
        """The inventory in the file `name` of a run's folder.

        Raises:
            ConfigError: It is gone or damaged; `remedy` says what to do.
        """
        inventory = folder.read_as(name, cls.from_bytes, remedy)
        if inventory is None:
            raise ConfigError(f"{folder.path}/{name}: is gone. {remedy}")
        return inventory


def source_of(row: int) -> int:
    """The number of the file that a row's integer belongs to."""
    return (row >> ROW_BITS) - 1 if row >> ROW_BITS else row


def _planned(units: Sequence[Unit], source: int) -> tuple[PlannedUnit, ...]:
    """The units of a file; a file of one row takes one integer, so that ten million images are one dense range."""
    base = _ids_of_file(units, source).start
    return tuple(PlannedUnit(unit, source, base) for unit in units)


def _is_one_row(units: Sequence[Unit]) -> bool:
    return len(units) == 1 and units[0].row_groups is None and units[0].num_rows == 1 and units[0].first_row == 0


def _ids_of_file(units: Sequence[Unit], source: int) -> range:
    if _is_one_row(units):
        return range(source, source + 1)
    return range((source + 1) << ROW_BITS, (source + 2) << ROW_BITS)


def _count_rows(
    unit: Unit, read_format: ReadFormat, schema: pa.Schema, enough: int, filesystem: FilesystemConfig
) -> int:
    num_rows = 0
    for table in read_unit(unit, read_format, schema, min(enough, 1024), filesystem):
        num_rows += table.num_rows
        if num_rows >= enough:
            break
    return num_rows


def _units_to_json(units: Sequence[PlannedUnit]) -> str:
    values = []
    for planned in units:
        fields = {f.name: getattr(planned.unit, f.name) for f in dataclasses.fields(Unit) if f.name != "file"}
        values.append({"unit": fields, "max_rows": planned.max_rows})
    return json.dumps(values)


def _units_of_json(text: str, file: SourceFile, source: int) -> tuple[PlannedUnit, ...]:
    values: list[Mapping[str, Any]] = json.loads(text)
    units = [Unit(file, **{key: _frozen(value) for key, value in each["unit"].items()}) for each in values]
    planned = _planned(units, source)
    return tuple(
        dataclasses.replace(unit, max_rows=each["max_rows"]) for unit, each in zip(planned, values, strict=True)
    )


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - NAMED_FILES:,} more" if len(paths) > NAMED_FILES else ""
    return ", ".join(paths[:NAMED_FILES]) + more
