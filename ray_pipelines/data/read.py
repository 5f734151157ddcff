"""The job's input as a Ray dataset: every row with its file, its position in it, and what reading it has cost.

Built on Ray Data's `Datasource`: one read task takes some units (files, or row groups of a Parquet file) and streams
them. Only the columns that the task needs and the results keep are read. Blocks are cut to `read.rows_per_block` rows,
the unit of work and of output: one large file is spread over all workers, many small ones are gathered. Rows that an
interrupted run has written are left out, files of which all rows are written are not opened.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from pyroaring import BitMap64

from ray_pipelines import tasks
from ray_pipelines.config import Job, ReadFormat, input_problems, split_inputs
from ray_pipelines.data.chunks import CARRIED_COLUMN, CHUNK_COLUMN, COUNT_COLUMN, INDEX_COLUMN, ROW_ID_COLUMN
from ray_pipelines.data.counting import COUNTERS_COLUMN, add_counters
from ray_pipelines.data.files import SourceFile, find_files
from ray_pipelines.data.formats import (
    LEFT_OUT_COLUMN,
    ROW_COLUMN,
    SOURCE_COLUMN,
    check_partitions,
    left_out_of,
    read_units,
    sample_schema,
)
from ray_pipelines.data.formats.schema import ALL_COLUMNS
from ray_pipelines.data.inventory import PlannedUnit
from ray_pipelines.data.resume import Remaining
from ray_pipelines.data.sinks import column_problems, partition_problems, partitionable
from ray_pipelines.data.workers import ERROR_COLUMN, ITEM_COLUMN, READ_ERROR_COLUMN, TENSORS_COLUMN
from ray_pipelines.engine.counters import Counters
from ray_pipelines.errors import ConfigError
from ray_pipelines.storage import FilesystemConfig
from ray_pipelines.validation import did_you_mean

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["ID_COLUMN", "UNIT_ROWS_COLUMN", "Input", "describe_input", "read_dataset"]

READ_CPUS = 0.5
BLOCK_BYTES = 128 << 20
ID_COLUMN = "__id"
"""The integer that a row is known by (`inventory.py`)."""
UNIT_ROWS_COLUMN = "__unit_rows"
"""Beside the last row of a unit: how many rows the unit has."""
INTERNAL_COLUMNS = (
    SOURCE_COLUMN,
    ROW_COLUMN,
    READ_ERROR_COLUMN,
    COUNTERS_COLUMN,
    LEFT_OUT_COLUMN,
    ID_COLUMN,
    UNIT_ROWS_COLUMN,
    TENSORS_COLUMN,
    ITEM_COLUMN,
    ROW_ID_COLUMN,
    INDEX_COLUMN,
    COUNT_COLUMN,
    CHUNK_COLUMN,
    CARRIED_COLUMN,
)
"""What stands beside the columns of a row on its way through a run."""


@dataclass(frozen=True)
class Input:
    """What a job reads.

    Attributes:
        read_format: Format of the files.
        files: The files.
        schema: The columns to read.
        inputs: Column of results: input of its task: column, or a value for all rows.
        kept_columns: Columns of the input that stand beside the prediction.
        filesystem: How the files are reached.
    """

    read_format: ReadFormat
    files: tuple[SourceFile, ...]
    schema: pa.Schema
    inputs: dict[str, dict[str, Any]]
    kept_columns: tuple[str, ...]
    filesystem: FilesystemConfig

    @property
    def dropped_columns(self) -> tuple[str, ...]:
        """Columns that are read for the task alone."""
        return tuple(name for name in self.schema.names if name not in self.kept_columns)


def describe_input(job: Job) -> Input:
    """What `job` reads, found by looking at the files and at the columns of the first.

    Raises:
        ConfigError: One line per problem: no files, no such column, an output column that is there already.
    """
    filesystem = job.read_filesystem
    read_format, files = find_files(job.read, filesystem)
    _check_names(files)
    parts = {name: (part, tasks.resolve(part.task, has_own_pipeline=True)) for name, part in job.parts.items()}
    texts = [
        split_inputs(part.inputs)[0].get(f.name, f.name)
        for part, task in parts.values()
        for f in task.inputs
        if f.modality in ("text", "chat")
    ]
    schema = partitionable(sample_schema(files, read_format, texts, filesystem), job.write.partition_by)
    if not schema.names:
        raise ConfigError(f"read.path: no file that was looked at has a column, such as {files[0].path}. Is it empty?")
    inputs: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for name, (part, task) in parts.items():
        own = part.inputs or {f.name: f.name for f in task.inputs if f.required or f.name in schema.names}
        inputs[name] = dict(own)
        problems += [job.where_of(name) + problem for problem in input_problems(task, own, schema.names)]
    for where, columns in (("read.columns", job.read.columns), ("write.columns", job.write.columns)):
        problems += [
            f'{where}: the dataset has no column "{name}".{did_you_mean(name, schema.names)} It has: '
            f"{', '.join(schema.names)}."
            for name in columns or ()
            if name not in schema.names
        ]
    keeps_all = job.write.columns is None and job.read.columns is None
    kept = job.write.columns if job.write.columns is not None else job.read.columns or tuple(schema.names)
    problems += partition_problems(job.write.partition_by, schema, kept)
    read_by_tasks = {column for own in inputs.values() for column in split_inputs(own)[0].values()}
    wanted = read_by_tasks | {*kept}
    wanted |= _column_that_counts(wanted, schema, files)
    hidden = {task.preparation.column for _, task in parts.values() if task.preparation is not None}
    for name in schema.names:
        can_be_left_out = name not in read_by_tasks
        if name in wanted & parts.keys():
            where = f"tasks.{name}" if name in job.tasks else "output_column"
            problems.append(
                f'{where}: the dataset already has a column "{name}". Rename it'
                f"{', leave it out with write.columns' if can_be_left_out else ''}, or choose another name for the "
                "results."
            )
        elif name in wanted & ({ERROR_COLUMN, *INTERNAL_COLUMNS} | hidden):
            problems.append(
                f'read.path: the dataset has a column "{name}", a name that this package uses itself. Rename it'
                f"{', or leave it out with write.columns' if can_be_left_out else ''}."
            )
    problems += column_problems(job.write, pa.schema([column for column in schema if column.name in kept]))
    if problems:
        raise ConfigError(problems)
    schema = pa.schema([column for column in schema if column.name in wanted], ALL_COLUMNS if keeps_all else None)
    check_partitions(files, schema)
    return Input(
        read_format=read_format,
        files=tuple(files),
        schema=schema,
        inputs=inputs,
        kept_columns=tuple(name for name in schema.names if name in kept),
        filesystem=filesystem,
    )


def _column_that_counts(wanted: Collection[str], schema: pa.Schema, files: Sequence[SourceFile]) -> set[str]:
    """A column of the files where none is wanted, as a table without columns has no rows; nothing otherwise."""
    of_folders = {name for file in files for name in file.partition}
    in_files = [name for name in schema.names if name not in of_folders]
    return set() if set(in_files) & set(wanted) else set(in_files[:1])


def _check_names(files: Sequence[SourceFile]) -> None:
    """Raises if the name of a file is no text: rows are known by it.

    Raises:
        ConfigError: One line per file.
    """
    names = [file.path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for file in files]
    wrong = [name for name, file in zip(names, files, strict=True) if name != file.path]
    if wrong:
        raise ConfigError(f"read.path: expected names in UTF-8; got {name}. Rename the file." for name in wrong)


def _rows_per_block(source: Input, job: Job) -> int:
    """Rows of a block; fewer than the job says where rows hold large files."""
    if source.read_format != "binary":
        return job.read.rows_per_block
    mean_bytes = max(1, sum(file.num_bytes for file in source.files) // max(1, len(source.files)))
    return max(1, min(job.read.rows_per_block, BLOCK_BYTES // mean_bytes))


def read_dataset(source: Input, units: Sequence[Remaining], job: Job) -> Dataset:
    """The rows of `units` that are not written yet, as a lazy dataset."""
    import ray

    rows_per_block = _rows_per_block(source, job)
    datasource = _datasource(units, source, rows_per_block)
    dataset = ray.data.read_datasource(datasource, num_cpus=READ_CPUS)
    return dataset.repartition(target_num_rows_per_block=rows_per_block)


def _datasource(units: Sequence[Remaining], source: Input, rows_per_table: int) -> Any:
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    class UnitDatasource(Datasource):  # type: ignore[misc]  # Ray is untyped here
        """Reads units; see the module."""

        def get_name(self) -> str:
            return f"Read{source.read_format.capitalize()}"

        def estimate_inmemory_data_size(self) -> int | None:
            sizes = {unit.planned.source: unit.planned.unit.file.num_bytes for unit in units}
            return sum(sizes.values())

        def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[Any]:
            num_tasks = max(1, min(parallelism, len(units)))
            shares = [units[index::num_tasks] for index in range(num_tasks)]
            return [
                ReadTask(
                    partial(_read_units, share, source, rows_per_table),
                    BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None),
                )
                for share in shares
                if share
            ]

    return UnitDatasource()


def _read_units(units: Sequence[Remaining], source: Input, rows_per_table: int) -> Iterator[pa.Table]:
    def wanted(index: int, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        return wanted_rows(numbered(tables, units[index].planned), units[index])

    start_s = time.perf_counter()
    all_units = [unit.planned.unit for unit in units]
    for table in read_units(all_units, source.read_format, source.schema, rows_per_table, source.filesystem, wanted):
        counters = Counters(read_s=time.perf_counter() - start_s, left_out=left_out_of(table))
        yield add_counters(table.drop_columns([LEFT_OUT_COLUMN]), counters)
        start_s = time.perf_counter()


def numbered(tables: Iterable[pa.Table], planned: PlannedUnit) -> Iterator[pa.Table]:
    """The tables of a unit with the integer of each row, and the number of the unit's rows beside the last one."""
    num_rows = 0
    held: pa.Table | None = None
    for table in tables:
        if planned.max_rows is not None:
            table = table.slice(0, planned.max_rows - num_rows)
        if not table.num_rows:
            continue
        if held is not None:
            yield _with_unit_rows(held, None)
        num_rows += table.num_rows
        ids = pc.add(table[ROW_COLUMN], pa.scalar(planned.base, pa.int64()))
        held = table.append_column(ID_COLUMN, ids)
        if num_rows == planned.max_rows:
            break
    if held is not None:
        yield _with_unit_rows(held, num_rows)


def _with_unit_rows(table: pa.Table, num_rows: int | None) -> pa.Table:
    values = pa.array([*[None] * (table.num_rows - 1), num_rows], type=pa.int64())
    return table.append_column(UNIT_ROWS_COLUMN, values)


def wanted_rows(tables: Iterable[pa.Table], unit: Remaining) -> Iterator[pa.Table]:
    """The rows that are not written yet, or the only ones that are wanted."""
    listed = unit.only if unit.only is not None else unit.skip
    if listed is None:
        yield from tables
        return
    rows = pa.array(BitMap64.deserialize(listed), type=pa.int64())
    for table in tables:
        found = pc.is_in(table[ID_COLUMN], value_set=rows)
        kept = table.filter(found if unit.only is not None else pc.invert(found))
        if kept.num_rows:
            yield kept
