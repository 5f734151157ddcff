"""How each format is read: a unit of work to Arrow tables, with every row's source and position.

A row that a reader cannot take (a line that is not JSON, a value that does not fit its column) keeps its place, with an
error in `READ_ERROR_COLUMN`: it becomes a dead letter like any other. A file that breaks is one error, in the place of
the row that would have come next. Column types are settled once, on samples of the files, so that they are the same in
all blocks. A storage that does not answer at all ends the job instead: its files are not broken.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipelines.arrow import errors_to_arrow, set_column
from ray_pipelines.config import ReadFormat
from ray_pipelines.data.files import SourceFile
from ray_pipelines.data.formats import arrow_files, csv, jsonl, parquet, text, webdataset
from ray_pipelines.data.formats.media import BinaryFiles, MediaFiles
from ray_pipelines.data.formats.schema import unify
from ray_pipelines.data.formats.unit import Part, Reader, Unit
from ray_pipelines.data.workers import READ_ERROR_COLUMN
from ray_pipelines.errors import ConfigError, RowError, attempt
from ray_pipelines.storage import FilesystemConfig, explain, is_outage, no_answer

__all__ = [
    "LEFT_OUT_COLUMN",
    "ROW_COLUMN",
    "SOURCE_COLUMN",
    "Unit",
    "check_partitions",
    "left_out_of",
    "read_unit",
    "read_units",
    "sample_of",
    "sample_schema",
    "units_of_file",
]

SOURCE_COLUMN = "__source"
ROW_COLUMN = "__row"
LEFT_OUT_COLUMN = "__left_out"
"""Names of values that a row has and no column holds: beside the row, as not all rows of a unit need be wanted."""
SAMPLE_FILES = 32
SMALL_FILE_BYTES = 8 << 20
SMALL_FILES_AHEAD = 16
THREADS = 16

READERS: dict[ReadFormat, Reader] = {
    "parquet": parquet,
    "jsonl": jsonl,
    "csv": csv,
    "text": text,
    "arrow": arrow_files,
    "webdataset": webdataset,
    "images": MediaFiles("images"),
    "audio": MediaFiles("audio"),
    "video": MediaFiles("video"),
    "binary": BinaryFiles(),
}


def units_of_file(file: SourceFile, read_format: ReadFormat, filesystem: FilesystemConfig) -> list[Unit]:
    """The units of one file; a file that cannot be opened is one, whose reading will say why.

    Raises:
        StorageError: The storage does not answer.
    """
    units = attempt("read", partial(READERS[read_format].units, file, filesystem))
    if isinstance(units, RowError):
        _raise_outage(file, units, filesystem)
        return [Unit(file)]
    return units


def sample_schema(
    files: Sequence[SourceFile], read_format: ReadFormat, text_columns: Sequence[str], filesystem: FilesystemConfig
) -> pa.Schema:
    """The columns and types of the files, from the first rows of some of them.

    Args:
        files: The files.
        read_format: Their format.
        text_columns: Columns that are strings whatever their values look like.
        filesystem: How they are reached.

    Raises:
        ConfigError: None of them can be read, or their columns have types that do not go together.
    """
    chosen = sample_of(files)
    with ThreadPoolExecutor(THREADS) as threads:
        sample = partial(READERS[read_format].sample_schema, filesystem=filesystem)
        found = list(threads.map(lambda file: attempt("read", partial(sample, file)), chosen))
    schemas = {file.path: one for file, one in zip(chosen, found, strict=True) if not isinstance(one, RowError)}
    if not schemas:
        first = next(one for one in found if isinstance(one, RowError))
        cause = first.__cause__ if isinstance(first.__cause__, Exception) else first
        reason = explain(chosen[0].path, cause, filesystem)
        raise ConfigError(f"read.path: {chosen[0].path} cannot be read as {read_format}: {reason}")
    as_text = text_columns if read_format in ("jsonl", "csv") else ()
    schema = unify(schemas, read_format, as_text)
    for name in dict.fromkeys(name for file in files for name in file.partition):
        if name not in schema.names:
            schema = schema.append(pa.field(name, pa.string()))
    return schema


def sample_of(files: Sequence[SourceFile]) -> Sequence[SourceFile]:
    """Some of the files, from all over them."""
    return files[:: max(1, len(files) // SAMPLE_FILES)][:SAMPLE_FILES]


def check_partitions(files: Sequence[SourceFile], schema: pa.Schema) -> None:
    """Raises if a value in the name of a folder does not fit the column of the files that has this name.

    Raises:
        ConfigError: One line per folder.
    """
    found = {(name, value): file.path for file in files for name, value in file.partition.items()}
    problems = [
        f"read.path: the folder {name}={value} does not fit the column {name!r} of the files, which is "
        f"{schema.field(name).type} ({path}). Rename the folder or the column, or leave it out with read.partitions."
        for (name, value), path in found.items()
        if name in schema.names
        and isinstance(attempt("read", partial(_of_folder, value, schema.field(name))), RowError)
    ]
    if problems:
        raise ConfigError(problems)


def _of_folder(value: str | None, column: pa.Field) -> pa.Scalar:
    return pa.scalar(value, pa.string()).cast(column.type)


def read_units(
    units: Sequence[Unit],
    read_format: ReadFormat,
    schema: pa.Schema,
    rows_per_table: int,
    filesystem: FilesystemConfig,
    of_unit: Callable[[int, Iterator[pa.Table]], Iterator[pa.Table]] = lambda index, tables: tables,
) -> Iterator[pa.Table]:
    """The rows of many units, in order; small files are read several at a time, as each is mostly waiting.

    Args:
        units: What to read.
        read_format: Their format.
        schema: The columns to read, and their types.
        rows_per_table: Rows of one table at most.
        filesystem: How they are reached.
        of_unit: What becomes of the tables of the unit at an index.

    Raises:
        StorageError: The storage does not answer.
    """
    read = partial(
        read_unit, read_format=read_format, schema=schema, rows_per_table=rows_per_table, filesystem=filesystem
    )

    def tables_of(index: int) -> Iterator[pa.Table]:
        return of_unit(index, read(units[index]))

    ahead: deque[Iterator[pa.Table] | Future[list[pa.Table]]] = deque()
    with ThreadPoolExecutor(THREADS) as threads:
        for index, unit in enumerate(units):
            is_small = unit.file.num_bytes < SMALL_FILE_BYTES
            ahead.append(threads.submit(lambda index: list(tables_of(index)), index) if is_small else tables_of(index))
            if len(ahead) > SMALL_FILES_AHEAD:
                yield from _tables(ahead.popleft())
        while ahead:
            yield from _tables(ahead.popleft())


def read_unit(
    unit: Unit, read_format: ReadFormat, schema: pa.Schema, rows_per_table: int, filesystem: FilesystemConfig
) -> Iterator[pa.Table]:
    """The rows of a unit as tables of at most `rows_per_table` rows: `schema`, and the columns that all have.

    Args:
        unit: What to read.
        read_format: Its format.
        schema: The columns to read, and their types.
        rows_per_table: Rows of one table at most.
        filesystem: How it is reached.

    Raises:
        StorageError: The storage does not answer.
    """
    # A table without columns would have no rows.
    of_file = [column for column in schema if column.name not in unit.file.partition] or list(schema)
    own = pa.schema(of_file, schema.metadata)
    row = unit.first_row
    parts = READERS[read_format].read(unit, own, rows_per_table, filesystem)
    while True:
        part = attempt("read", partial(next, parts, None))
        if part is None:
            return
        if isinstance(part, RowError):
            _raise_outage(unit.file, part, filesystem)
            yield _with_origin(_broken_file(own, part, unit, filesystem), unit, schema, row)
            return
        for error in part.errors or ():
            _raise_outage(unit.file, error, filesystem)
        table = _with_origin(part, unit, schema, row)
        row = table[ROW_COLUMN][-1].as_py() + 1 if table.num_rows else row
        yield table


def _with_origin(part: Part, unit: Unit, schema: pa.Schema, first_row: int) -> pa.Table:
    """The part's columns and those of the partition in the order of `schema`, then those that all formats have."""
    num_rows = part.table.num_rows
    table = part.table
    for column in schema:
        if column.name in unit.file.partition:
            value = _of_folder(unit.file.partition[column.name], column)
            table = set_column(table, column.name, pa.repeat(value, num_rows))
    positions = part.positions if part.positions is not None else range(first_row, first_row + num_rows)
    return (
        table.select(schema.names)
        .append_column(SOURCE_COLUMN, pa.repeat(pa.scalar(unit.file.path), num_rows))
        .append_column(ROW_COLUMN, pa.array(positions, type=pa.int64()))
        .append_column(READ_ERROR_COLUMN, errors_to_arrow(part.errors or [None] * num_rows))
        .append_column(LEFT_OUT_COLUMN, _left_out(part, unit.file))
    )


def _left_out(part: Part, file: SourceFile) -> pa.Array:
    kind = pa.list_(pa.string())
    if part.left_out is None:
        return pa.nulls(part.table.num_rows, kind)
    return pa.array([sorted(names - file.partition.keys()) for names in part.left_out], type=kind)


def left_out_of(table: pa.Table) -> dict[str, int]:
    """Name of a value that rows of a table have and no column holds: how many rows have one, the most frequent first.

    >>> left_out_of(pa.table({LEFT_OUT_COLUMN: [["a"], None, ["a", "b"]]}))
    {'a': 2, 'b': 1}
    """
    return dict(Counter(pc.list_flatten(table[LEFT_OUT_COLUMN]).to_pylist()).most_common())


def _broken_file(schema: pa.Schema, error: RowError, unit: Unit, filesystem: FilesystemConfig) -> Part:
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    reason = f"the file cannot be read from here on: {explain(unit.file.path, cause, filesystem)}"
    broken = RowError("read", "BrokenFile", reason[:500])
    return Part(pa.table([pa.nulls(1, column.type) for column in schema], schema=schema), None, [broken])


def _raise_outage(file: SourceFile, error: RowError | None, filesystem: FilesystemConfig) -> None:
    cause = error.__cause__ if error is not None else None
    if isinstance(cause, Exception) and is_outage(cause):
        raise no_answer(file.path, cause, filesystem) from None


def _tables(source: Iterator[pa.Table] | Future[list[pa.Table]]) -> Iterator[pa.Table]:
    yield from source.result() if isinstance(source, Future) else source
