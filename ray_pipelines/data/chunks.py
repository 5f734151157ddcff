"""Rows to chunks and back, spread over all workers: the stages of `workers.chunking: groupby`.

    rows ─► explode ─► parts ─► forward ─► parts ─► shuffle by row ─► implode ─► rows
            CPU        of some  workers             whole partitions  CPU
                       chunks

A part is a table of chunk rows and carrier rows. A chunk row holds the model's inputs, then its outputs, and nothing
else of its row. A carrier row, one for each row of the dataset, holds what the model does not need: the user's columns,
the number of chunks, and the error of a row that could not be read or preprocessed. Both have the id of their row, so
that one shuffle brings them together: it is the join of the user's columns, the trace of rows without chunks, and the
way of error rows.

Ray cuts blocks between any two rows, hands them on in any order and computes them again when a process dies. Nothing
here relies on neighbours. A row's id is Ray's `monotonically_increasing_id`, the number of the Ray task and the row's
position in it. Both are arguments of the task, so that they are the same in every attempt, and unique in the run (not
from one run to the next, which nothing needs). And a row is put together only if its chunks are 0 … n-1, each once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_pipelines.arrow import CHUNK_TYPE, errors_to_arrow, set_column
from ray_pipelines.data.counting import COUNTERS_COLUMN, counters_of
from ray_pipelines.data.workers import (
    READ_ERROR_COLUMN,
    ModelWorker,
    counted,
    items_of_table,
    results_of_rows,
    rows_one_by_one,
    with_results,
)
from ray_pipelines.engine.counters import Counters
from ray_pipelines.errors import RowError, attempt

if TYPE_CHECKING:
    from ray_pipelines.data.workers import WorkerSetup
    from ray_pipelines.engine.runner import Runner

__all__ = ["ROW_ID_COLUMN", "ChunkWorker", "ImplodeWorker", "explode_table"]

ROW_ID_COLUMN = "__row_id"
INDEX_COLUMN = "__chunk_index"
COUNT_COLUMN = "__num_chunks"
CHUNK_COLUMN = "__chunk"
CARRIED_COLUMN = "__carried"
CARRIER = -1
"""In place of a carrier's chunk index, so that it comes before the chunks of its row."""

PART_BYTES = 16 << 20
NOT_FORWARDED = RowError("forward", "Carrier", "is no chunk")
"""What a runner, which hands errors on, is given in the place of a carrier."""


def explode_table(table: pa.Table, setup: WorkerSetup, part_bytes: int = PART_BYTES) -> Iterator[pa.Table]:
    """The parts of a table: the chunks of each row as they are made, and after them the row's carrier.

    Args:
        table: Rows as they were read, with their ids.
        setup: The pipeline; loaded once per process, without weights.
        part_bytes: Bytes of chunks beyond which a part ends; no more is held here, whatever a row makes of itself.
    """
    from ray_pipelines.engine.transfer import pack

    runner = setup.load_without_weights()
    counters, before = counters_of(table), runner.counters.copy()
    ids = table[ROW_ID_COLUMN].to_pylist()
    unneeded = {ROW_ID_COLUMN, READ_ERROR_COLUMN, COUNTERS_COLUMN, *setup.dropped_columns}
    part = _Part(table.select([name for name in table.column_names if name not in unneeded]))
    for row, deadly in rows_one_by_one(runner, setup.known_by(table), "explode"):
        num_chunks, error = 0, deadly
        for chunk in runner.explode(next(items_of_table(table, setup, runner, [row]))) if deadly is None else ():
            packed = chunk if isinstance(chunk, RowError) else attempt("preprocess", partial(pack, chunk))
            if isinstance(packed, RowError):
                error = packed
                break
            part.add_chunk(ids[row], num_chunks, packed)
            num_chunks += 1
            if part.num_bytes >= part_bytes:
                counters.add(runner.counters.since(before))
                yield counted(part.flush(), counters, setup)
                counters, before = Counters(), runner.counters.copy()
        part.add_carrier(ids[row], num_chunks, error)
    counters.add(runner.counters.since(before))
    yield counted(part.flush(), counters, setup)


class _Part:
    """A part while it grows.

    Args:
        rows: The columns that carriers hold; carriers are added in the order of its rows.
    """

    def __init__(self, rows: pa.Table) -> None:
        self._rows = rows
        self._num_carriers = 0
        self._clear()

    def _clear(self) -> None:
        self.num_bytes = 0
        self._ids: list[int] = []
        self._indices: list[int] = []
        self._counts: list[int | None] = []
        self._chunks: list[Any] = []
        self._errors: list[RowError | None] = []

    def add_chunk(self, row_id: int, index: int, packed: Any) -> None:
        """Adds a chunk of the row."""
        from ray_pipelines.engine.transfer import packed_bytes

        self._add(row_id, index, None, packed, None)
        self.num_bytes += packed_bytes(packed)

    def add_carrier(self, row_id: int, num_chunks: int, error: RowError | None) -> None:
        """Ends the row."""
        self._add(row_id, CARRIER, num_chunks, None, error)

    def _add(self, row_id: int, index: int, count: int | None, chunk: Any, error: RowError | None) -> None:
        self._ids.append(row_id)
        self._indices.append(index)
        self._counts.append(count)
        self._chunks.append(chunk)
        self._errors.append(error)

    def flush(self) -> pa.Table:
        """The part as a table; the next begins."""
        are_carriers = np.array(self._indices, dtype=np.int64) == CARRIER
        num_carriers = int(are_carriers.sum())
        carried = self._rows.slice(self._num_carriers, num_carriers)
        self._num_carriers += num_carriers
        table = pa.table(
            {
                ROW_ID_COLUMN: pa.array(self._ids, type=pa.int64()),
                INDEX_COLUMN: pa.array(self._indices, type=pa.int32()),
                COUNT_COLUMN: pa.array(self._counts, type=pa.int32()),
                CHUNK_COLUMN: pa.array(self._chunks, type=CHUNK_TYPE),
                READ_ERROR_COLUMN: errors_to_arrow(self._errors),
                CARRIED_COLUMN: _carried_column(carried, are_carriers),
            }
        )
        self._clear()
        return table


def _carried_column(rows: pa.Table, are_carriers: np.ndarray) -> pa.Array:
    """The rows as a list of one struct where `are_carriers`, and an empty list, which takes no room, elsewhere."""
    columns = [column.combine_chunks() for column in rows.columns]
    structs = pa.StructArray.from_arrays(columns, fields=list(rows.schema))
    return pa.LargeListArray.from_arrays(np.concatenate([[0], np.cumsum(are_carriers)]), structs)


class ChunkWorker(ModelWorker):
    """The forward stage: an actor that holds the weights and sees chunks, of whatever rows."""

    def output_of(self, part: pa.Table) -> pa.Table:
        """The part with model outputs, or errors, in place of model inputs; carriers as they came."""
        return forward_part(part, self.runner)


def forward_part(part: pa.Table, runner: Runner) -> pa.Table:
    """The part with the outputs of its chunks, or their errors, in the place of their inputs."""
    from ray_pipelines.engine.transfer import PackedChunks, pack

    inputs = PackedChunks(part[CHUNK_COLUMN])
    are_carriers = part[INDEX_COLUMN].to_numpy() == CARRIER

    def run(rows: Sequence[int]) -> Iterator[Any]:
        return runner.outputs(NOT_FORWARDED if are_carriers[row] else [inputs[row]] for row in rows)

    outputs = results_of_rows(runner, part.select([ROW_ID_COLUMN, INDEX_COLUMN, CHUNK_COLUMN]), "forward", run)
    errors = [None if error is None else RowError(**error) for error in part[READ_ERROR_COLUMN].to_pylist()]
    chunks: list[Any] = [None] * part.num_rows
    for row in np.flatnonzero(~are_carriers).tolist():
        output = outputs[row]
        packed = output if isinstance(output, RowError) else attempt("forward", partial(pack, output[0]))
        if isinstance(packed, RowError):
            errors[row] = packed
        else:
            chunks[row] = packed
    part = set_column(part, CHUNK_COLUMN, pa.array(chunks, type=CHUNK_TYPE))
    return set_column(part, READ_ERROR_COLUMN, errors_to_arrow(errors))


class ImplodeWorker:
    """The last stage: an actor without weights, which has loaded by the time the shuffle is over.

    Args:
        setup: The pipeline.
    """

    def __init__(self, setup: WorkerSetup) -> None:
        self._setup = setup
        setup.load_without_weights()

    def __call__(self, table: pa.Table) -> pa.Table:
        """The rows of a partition."""
        return implode_table(table, self._setup)


def implode_table(table: pa.Table, setup: WorkerSetup) -> pa.Table:
    """The rows whose carriers and chunks are in a partition, with predictions and errors, in the order of their ids.

    Args:
        table: Every chunk row and carrier of some rows, in any order.
        setup: The pipeline; loaded once per process, without weights.
    """
    from ray_pipelines.engine.transfer import PackedChunks

    if not table.num_rows:
        return table
    runner = setup.load_without_weights()
    before = runner.counters.copy()
    order, starts = grouped_rows(table)
    outputs, groups = PackedChunks(table[CHUNK_COLUMN]), np.split(order, starts[1:])
    errors = _first_errors(table, order, starts)

    def run(rows: Sequence[int]) -> Iterator[Any]:
        for place, row in enumerate(rows):
            chunks = errors[row] or [outputs[chunk] for chunk in groups[row][1:]]
            yield runner.postprocess(chunks, place)

    ids = table[ROW_ID_COLUMN].take(pa.array(order[starts]))
    results = results_of_rows(runner, pa.table({ROW_ID_COLUMN: ids}), "implode", run)
    rows = with_results(_carried_rows(table, order[starts]), results, setup)
    counters = counters_of(table)
    counters.add(runner.counters.since(before))
    return counted(rows, counters, setup)


def grouped_rows(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """The order of a partition's rows, carrier before chunks 0 … n-1, and where in it each carrier stands.

    Raises:
        AssertionError: A row is torn: a chunk is missing, or there twice.
    """
    keys = [(ROW_ID_COLUMN, "ascending"), (INDEX_COLUMN, "ascending")]
    order = pc.sort_indices(table, sort_keys=keys).to_numpy()
    ids = table[ROW_ID_COLUMN].to_numpy()[order]
    indices = table[INDEX_COLUMN].to_numpy()[order]
    starts = np.flatnonzero(indices == CARRIER)
    torn = (
        "chunks: expected a carrier and the chunks 0 to n-1 of each row, each once; a row is torn. Please report this."
    )
    assert len(starts) and starts[0] == 0, torn
    counts = table[COUNT_COLUMN].combine_chunks().take(pa.array(order[starts])).to_numpy(zero_copy_only=False)
    sizes = np.diff([*starts, len(order)])
    first = np.repeat(starts, sizes)
    assert np.array_equal(sizes - 1, counts), torn
    assert np.array_equal(indices, np.arange(len(order)) - first + CARRIER), torn
    assert np.array_equal(ids, ids[first]), torn
    return order, starts


def _first_errors(table: pa.Table, order: np.ndarray, starts: np.ndarray) -> list[RowError | None]:
    """The error of each row: of its first chunk that failed, else the carrier's, which came after all chunks."""
    column = table[READ_ERROR_COLUMN].combine_chunks()
    positions = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False)[order])
    found: list[RowError | None] = [None] * len(starts)
    for position in positions[::-1]:
        group = int(np.searchsorted(starts, position, side="right")) - 1
        if position != starts[group] or found[group] is None:
            found[group] = RowError(**column[int(order[position])].as_py())
    return found


def _carried_rows(table: pa.Table, carriers: np.ndarray) -> pa.Table:
    """The columns that the carriers hold."""
    structs = table[CARRIED_COLUMN].take(pa.array(carriers)).combine_chunks().flatten()
    return pa.Table.from_arrays(
        [structs.field(name.name) for name in structs.type], schema=pa.schema(list(structs.type))
    )
