"""Results and dead letters of a block: the files of each, and the commit that makes them count.

A block's files are named by the rows that it holds, so that a task that Ray runs twice writes the same files twice.
Rows are written in the order of the input. `sinks.py` makes the files, `output.py`
describes the folder, `resume.py` the commits.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyroaring import BitMap64

from ray_pipelines.arrow import ERROR_TYPE, errors_to_arrow, set_column
from ray_pipelines.data.counting import counters_of
from ray_pipelines.data.formats import ROW_COLUMN, SOURCE_COLUMN
from ray_pipelines.data.inventory import source_of
from ray_pipelines.data.output import DEAD_LETTERS, RESULTS, Output
from ray_pipelines.data.prometheus import publish
from ray_pipelines.data.read import ID_COLUMN, UNIT_ROWS_COLUMN
from ray_pipelines.data.resume import Commit, OutputFile, block_name
from ray_pipelines.data.sampling import SAMPLES_TYPE, RowSampler
from ray_pipelines.data.sinks import Sink, misplaced_rows
from ray_pipelines.data.workers import ERROR_COLUMN
from ray_pipelines.errors import JobError

__all__ = ["BLOCK_STATS", "BlockWriter", "dead_letters", "write_block"]

BLOCK_STATS = pa.schema(
    [
        ("num_rows", pa.int64()),
        ("num_errors", pa.int64()),
        ("errors", pa.list_(pa.struct([("reason", pa.string()), ("count", pa.int64())]))),
        ("counters", pa.string()),
        ("commit", pa.string()),
        ("samples", SAMPLES_TYPE),
        ("written_s", pa.float64()),
    ]
)
"""What `write_block` says of one block."""


@dataclass(frozen=True)
class BlockWriter:
    """How blocks are written.

    Attributes:
        output: Where to.
        sink: What files look like.
        kept_columns: Columns of the input to write.
        output_columns: The columns of results.
        prefix: Begins the names of all files of a run.
        attempt: Which attempt at its rows the run is: 1, and one more at each retry.
        provenance: JSON for the metadata of the files.
        sampler: Chooses rows for the report.
        task, model: Labels of the metrics.
    """

    output: Output
    sink: Sink
    kept_columns: tuple[str, ...]
    output_columns: tuple[str, ...]
    prefix: str
    attempt: int
    provenance: str
    sampler: RowSampler
    task: str
    model: str

    def write(self, table: pa.Table, kind: str, name: str) -> tuple[OutputFile, ...]:
        """Writes a table of results or dead letters, if it has rows."""
        if not table.num_rows:
            return ()
        encode = self.sink.results if kind == RESULTS else self.sink.dead_letters
        written = []
        for file in encode(table, f"part-{self.prefix}-{name}", self.provenance):
            path = f"{kind}/{file.path}"
            self.output.folder.write(path, file.data)
            written.append(OutputFile(path, file.num_rows, len(file.data), file.unzipped_bytes))
        return tuple(written)


def write_block(table: pa.Table, writer: BlockWriter) -> pa.Table:
    """Writes and commits the rows of a block, results and dead letters apart; gives one row of `BLOCK_STATS`.

    Args:
        table: The kept columns, the prediction, the error, and where each row comes from.
        writer: How and where to.

    Raises:
        JobError: A row came twice.
    """
    start_s = time.perf_counter()
    if table.num_rows == 0:
        return BLOCK_STATS.empty_table()
    counters = counters_of(table)
    table = _with_misplaced(_in_order(table), writer.sink.config.partition_by)
    rows = BitMap64(table[ID_COLUMN].to_pylist())
    if len(rows) != table.num_rows:
        raise JobError(f"write: expected every row once; got {table.num_rows - len(rows)} row(s) twice in one block.")
    failed = pc.is_valid(table[ERROR_COLUMN])
    done = table.filter(pc.invert(failed))
    results = done.select([*writer.kept_columns, *writer.output_columns])
    errors = table.filter(failed)
    name = block_name(rows)
    found = reasons(errors)
    commit = Commit(
        rows=rows,
        num_errors=errors.num_rows,
        results=writer.write(results, RESULTS, name),
        dead_letters=writer.write(dead_letters(errors, writer.kept_columns, writer.attempt), DEAD_LETTERS, name),
        reasons=dict(found),
        ends=_ends(table),
        left_out=counters.left_out,
    )
    commit.write(writer.output.folder)
    counters.write_s += time.perf_counter() - start_s
    publish(counters, table.num_rows, found, writer.task, writer.model)
    stats = {
        "num_rows": table.num_rows,
        "num_errors": errors.num_rows,
        "errors": [{"reason": reason, "count": count} for reason, count in found.most_common()],
        "counters": counters.to_json(),
        "commit": commit.to_json(),
        "samples": writer.sampler.sample(done, writer.output_columns),
        "written_s": time.time(),
    }
    return pa.Table.from_pylist([stats], schema=BLOCK_STATS)


def _in_order(table: pa.Table) -> pa.Table:
    """The table in the order of the input, whatever way its rows came."""
    ids = table[ID_COLUMN].to_numpy()
    return table if np.all(ids[1:] >= ids[:-1]) else table.take(np.argsort(ids, kind="stable"))


def _with_misplaced(table: pa.Table, partition_by: Sequence[str]) -> pa.Table:
    """The table with errors of rows that no folder can hold, beside those of rows that have failed before."""
    misplaced = misplaced_rows(table, partition_by)
    if not any(misplaced):
        return table
    errors = pc.coalesce(table[ERROR_COLUMN].cast(ERROR_TYPE), errors_to_arrow(misplaced))
    return set_column(table, ERROR_COLUMN, errors)


def _ends(table: pa.Table) -> dict[int, tuple[int, int]]:
    """Number of a file: how many of its units have their last row in the table, and the rows of these units."""
    ends: dict[int, tuple[int, int]] = {}
    last = table.filter(pc.is_valid(table[UNIT_ROWS_COLUMN]))
    for row, unit_rows in zip(last[ID_COLUMN].to_pylist(), last[UNIT_ROWS_COLUMN].to_pylist(), strict=True):
        source = source_of(row)
        num_units, num_rows = ends.get(source, (0, 0))
        ends[source] = num_units + 1, num_rows + unit_rows
    return ends


def dead_letters(errors: pa.Table, kept_columns: Iterable[str], attempt: int) -> pa.Table:
    """Rows that failed as dead letters: where each comes from, why it failed, and its kept columns."""
    error = errors[ERROR_COLUMN].cast(ERROR_TYPE).combine_chunks()
    sources, rows = errors[SOURCE_COLUMN], errors[ROW_COLUMN]
    columns = {
        "id": pc.binary_join_element_wise(sources, pc.cast(rows, pa.string()), "#"),
        "source": sources,
        "row": rows,
        "stage": error.field("stage"),
        "error_type": error.field("type"),
        "message": error.field("message"),
        "attempt": pa.repeat(pa.scalar(attempt, pa.int32()), errors.num_rows),
    }
    kept = list(kept_columns)
    if kept:
        arrays = [errors[name].combine_chunks() for name in kept]
        columns["input"] = pa.StructArray.from_arrays(arrays, fields=[errors.schema.field(name) for name in kept])
    return pa.table(columns)


def reasons(errors: pa.Table) -> Counter[str]:
    """How often each stage and type of error occurs."""
    found = errors[ERROR_COLUMN].to_pylist()
    return Counter(f"{error['stage']}: {error['type']}" for error in found)
