"""The job's input as a Ray dataset: every row with its file, its position in it, and what reading it has cost.

Built on Ray Data's `Datasource`: one read task takes some units (files, or row groups of a Parquet file) and streams
them. Only the columns that the task needs and the results keep are read. Blocks are cut to `read.rows_per_block` rows,
the unit of work and of output: one large file is spread over all workers, many small ones are gathered.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ray_pipelines import tasks
from ray_pipelines.config import Job, ReadFormat, input_problems, split_inputs
from ray_pipelines.data.counting import add_counters
from ray_pipelines.data.files import SourceFile, find_files
from ray_pipelines.data.formats import Unit, read_units, sample_schema, units_of_file
from ray_pipelines.engine.counters import Counters
from ray_pipelines.errors import ConfigError
from ray_pipelines.storage import FilesystemConfig
from ray_pipelines.validation import did_you_mean

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["Input", "describe_input", "read_dataset"]

READ_CPUS = 0.5
METADATA_THREADS = 16


@dataclass(frozen=True)
class Input:
    """What a job reads.

    Attributes:
        read_format: Format of the files.
        files: The files.
        schema: The columns to read.
        inputs: Input of the task: column, or a value for all rows.
        kept_columns: Columns of the input that stand beside the prediction.
        filesystem: How the files are reached.
    """

    read_format: ReadFormat
    files: tuple[SourceFile, ...]
    schema: pa.Schema
    inputs: dict[str, Any]
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
    task = tasks.resolve(job.task, has_own_pipeline=True)
    filesystem = job.read_filesystem
    read_format, files = find_files(job.read, filesystem)
    mapped, _ = split_inputs(job.inputs)
    texts = [mapped.get(f.name, f.name) for f in task.inputs if f.modality in ("text", "chat")]
    schema = sample_schema(files, read_format, texts, filesystem)
    inputs = job.inputs or {f.name: f.name for f in task.inputs if f.required or f.name in schema.names}
    problems = input_problems(task, inputs, schema.names)
    for where, columns in (("read.columns", job.read.columns), ("write.columns", job.write.columns)):
        problems += [
            f'{where}: the dataset has no column "{name}".{did_you_mean(name, schema.names)} It has: '
            f"{', '.join(schema.names)}."
            for name in columns or ()
            if name not in schema.names
        ]
    for added in (job.output_column, "error"):
        if added in schema.names:
            problems.append(
                f'output_column: the dataset already has a column "{added}". Rename it, leave it out with '
                "write.columns, or choose another output_column."
            )
    if problems:
        raise ConfigError(problems)
    kept = job.write.columns if job.write.columns is not None else job.read.columns or tuple(schema.names)
    wanted = {*split_inputs(inputs)[0].values(), *kept}
    return Input(
        read_format=read_format,
        files=tuple(files),
        schema=pa.schema([column for column in schema if column.name in wanted]),
        inputs=dict(inputs),
        kept_columns=tuple(name for name in schema.names if name in kept),
        filesystem=filesystem,
    )


def read_dataset(source: Input, job: Job) -> tuple[Dataset, int | None]:
    """The dataset of `source`, lazy, and its number of rows where the files tell."""
    import ray

    with ThreadPoolExecutor(METADATA_THREADS) as threads:
        units = [
            unit
            for of_file in threads.map(
                partial(units_of_file, read_format=source.read_format, filesystem=source.filesystem), source.files
            )
            for unit in of_file
        ]
    datasource = _datasource(units, source, job.read.rows_per_block)
    dataset = ray.data.read_datasource(datasource, num_cpus=READ_CPUS)
    known = [unit.num_rows for unit in units if unit.num_rows is not None]
    num_rows = sum(known) if len(known) == len(units) else None
    if job.read.limit is not None:
        dataset = dataset.limit(job.read.limit)
        num_rows = min(num_rows, job.read.limit) if num_rows is not None else None
    return dataset.repartition(target_num_rows_per_block=job.read.rows_per_block), num_rows


def _datasource(units: Sequence[Unit], source: Input, rows_per_table: int) -> Any:
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    class UnitDatasource(Datasource):  # type: ignore[misc]  # Ray is untyped here
        """Reads units; see the module."""

        def get_name(self) -> str:
            return f"Read{source.read_format.capitalize()}"

        def estimate_inmemory_data_size(self) -> int | None:
            return sum(file.num_bytes for file in source.files)

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


def _read_units(units: Sequence[Unit], source: Input, rows_per_table: int) -> Iterator[pa.Table]:
    start_s = time.perf_counter()
    for table in read_units(units, source.read_format, source.schema, rows_per_table, source.filesystem):
        yield add_counters(table, Counters(read_s=time.perf_counter() - start_s))
        start_s = time.perf_counter()
