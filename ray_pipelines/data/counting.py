"""Counters beside the rows that they belong to: a column with the counts of a table in the table's first row.

They go the way of the rows, through Ray's retries too: what is written once is counted once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from ray_pipelines.arrow import set_column
from ray_pipelines.engine.counters import Counters

__all__ = ["COUNTERS_COLUMN", "WorkerClock", "add_counters", "counters_of"]

COUNTERS_COLUMN = "__counters"


def counters_of(table: pa.Table) -> Counters:
    """All that the rows of a table have been counted for."""
    if COUNTERS_COLUMN not in table.column_names:
        return Counters()
    return Counters.sum(Counters.from_json(text) for text in table[COUNTERS_COLUMN].drop_null().to_pylist())


def add_counters(table: pa.Table, counters: Counters) -> pa.Table:
    """The table with `counters` added to what its rows have been counted for."""
    if not table.num_rows:
        return table
    total = Counters.sum([counters_of(table), counters])
    values = [total.to_json(), *[None] * (table.num_rows - 1)]
    return set_column(table, COUNTERS_COLUMN, pa.array(values, type=pa.string()))


class WorkerClock:
    """How long a worker has taken to load, has worked, and has waited for work.

    Args:
        started_s: When it began to load, of `time.perf_counter`.
    """

    def __init__(self, started_s: float) -> None:
        self._since_s = time.perf_counter()
        self._startup_s = self._since_s - started_s

    @contextmanager
    def working(self, counters: Counters) -> Iterator[None]:
        """Counts the time in the block as work and the time before it as waiting, in `counters`."""
        start_s = time.perf_counter()
        counters.idle_s += start_s - self._since_s
        counters.startup_s += self._startup_s
        counters.begun_s = time.time()
        self._startup_s = 0.0
        try:
            yield
        finally:
            self._since_s = time.perf_counter()
            counters.worker_s += self._since_s - start_s
