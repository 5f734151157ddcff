"""Calls of a Serve application: which rows go in one, how many are made at a time, and their answers put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import pyarrow as pa

from ray_pipelines.arrow import ERROR_TYPE, errors_to_arrow
from ray_pipelines.engine.counters import Counters
from ray_pipelines.engine.exchange import RowAnswers, RowBatch
from ray_pipelines.errors import RowError

__all__ = ["Answers", "Gate", "joined"]

ROWS_PER_CALL = 256
CALL_BYTES = 32 << 20


class Answers:
    """The answers to the rows of a batch, as they come."""

    def __init__(self, batch: RowBatch) -> None:
        self.batch = batch
        self._parts: list[tuple[list[int], pa.Array | None, pa.Array]] = []
        self._counters = Counters()
        self._is_known = [False] * batch.num_rows

    def calls(self) -> Iterator[range]:
        """The rows in portions of one call each."""
        num_rows = self.batch.num_rows
        size = max(1, min(ROWS_PER_CALL, CALL_BYTES * num_rows // max(1, self.batch.num_bytes)))
        return (range(start, min(num_rows, start + size)) for start in range(0, num_rows, size))

    def missing(self, rows: Sequence[int]) -> list[int]:
        """Those of `rows` that have no answer."""
        return [row for row in rows if not self._is_known[row]]

    def add(self, sent: Sequence[int], made: RowAnswers) -> None:
        """Takes the answers to the rows that were sent."""
        rows = [sent[place] for place in made.rows]
        assert not any(self._is_known[row] for row in rows), "a row was answered twice"
        self._parts.append((rows, made.results, made.errors))
        self._counters.add(made.counters)
        for row in rows:
            self._is_known[row] = True

    def fail(self, row: int, error: RowError) -> None:
        """Takes a row for failed."""
        self._parts.append(([row], None, errors_to_arrow([error])))
        self._is_known[row] = True

    def all(self, result_type: pa.DataType) -> RowAnswers:
        """All answers, in the order of the rows."""
        assert all(self._is_known)
        order = [row for rows, *_ in self._parts for row in rows]
        places = pa.array(sorted(range(len(order)), key=order.__getitem__), type=pa.int64())
        results = [made if made is not None else pa.nulls(len(rows), result_type) for rows, made, _ in self._parts]
        return RowAnswers(
            range(len(order)),
            joined(results, result_type).take(places),
            joined([each for *_, each in self._parts], ERROR_TYPE).take(places),
            self._counters,
        )


def joined(arrays: Sequence[pa.Array | pa.ChunkedArray], data_type: pa.DataType) -> pa.ChunkedArray:
    """The arrays one after the other."""
    flat = [each for array in arrays for each in (array.chunks if isinstance(array, pa.ChunkedArray) else [array])]
    return pa.chunked_array(flat, type=data_type)


class Gate:
    """Lets a number of calls pass at a time, or one that must be alone.

    Args:
        limit: The number, at first.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._num_inside = 0
        self._num_waiting_alone = 0
        self._is_alone = False
        self._changed = asyncio.Condition()

    async def resize(self, limit: int) -> None:
        """Changes the number."""
        async with self._changed:
            self._limit = limit
            self._changed.notify_all()

    @asynccontextmanager
    async def passed(self, is_alone: bool) -> AsyncIterator[None]:
        """The block runs once there is room for it."""
        async with self._changed:
            if is_alone:
                self._num_waiting_alone += 1
                try:
                    await self._changed.wait_for(lambda: not self._num_inside)
                finally:
                    self._num_waiting_alone -= 1
                self._is_alone = True
            else:
                await self._changed.wait_for(self._has_room)
            self._num_inside += 1
        try:
            yield
        finally:
            async with self._changed:
                self._num_inside -= 1
                self._is_alone = self._is_alone and not is_alone
                self._changed.notify_all()

    def _has_room(self) -> bool:
        return self._num_inside < self._limit and not self._is_alone and not self._num_waiting_alone
