"""Blocks of rows of batch jobs, fed to a scheduler's batch lane.

Two blocks are at work at a time, one on the device and one on its way there; others wait. A block is worked on for
`BLOCK_S` at most, and what was not come to is handed back to the job: a replica can go away within seconds, and
rows find their way to the replica that has time for them. One row is always finished, however long it takes.

The CPU thread is asked for a few milliseconds of preprocessing at a time, so that requests get their turns, and for a
few chunks of a row: a row may have any number of them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from ray_pipelines.engine.counters import Counters
from ray_pipelines.engine.runner import Runner
from ray_pipelines.errors import RowError
from ray_pipelines.serve.lanes import Job
from ray_pipelines.serve.scheduler import Scheduler

__all__ = ["Blocks"]

BLOCKS_AT_WORK = 2
BLOCK_S = 8.0
CPU_SLICE_S = 0.01
ROOM_S = 0.01
CHUNKS_AT_ONCE = 64
MAX_ROWS_AT_ONCE = 64
CHUNKS_AHEAD = 512

MakeItem = Callable[[], Any]


@dataclass
class _Row:
    """A row on its way: what comes of its chunks, and the rest of these."""

    index: int
    job: Job
    rest: Iterator[Any] | None = None


class Blocks:
    """Runs blocks of rows behind the requests of a scheduler.

    Args:
        scheduler: Has the device.
        block_s: Seconds after which what is left of a block is handed back.

    Attributes:
        num_rows: Rows that are at work or wait.
    """

    def __init__(self, scheduler: Scheduler, block_s: float = BLOCK_S) -> None:
        self._scheduler = scheduler
        self.num_rows = 0
        self._block_s = block_s
        self._door = asyncio.Lock()
        self._places = asyncio.Semaphore(BLOCKS_AT_WORK)

    async def run(
        self, runner: Runner, items: Sequence[MakeItem], is_alone: bool = False
    ) -> tuple[Mapping[int, Any], Counters]:
        """Results or `RowError`s by place, and what they cost; places that are missing are handed back.

        Args:
            runner: Of `Scheduler.variant`.
            items: Each gives what `Steps.preprocess` takes, or a `RowError`; called in the CPU thread.
            is_alone: No other block is to be at work meanwhile.
        """
        self.num_rows += len(items)
        try:
            return await self._run(runner, items, is_alone)
        finally:
            self.num_rows -= len(items)

    async def _run(
        self, runner: Runner, items: Sequence[MakeItem], is_alone: bool
    ) -> tuple[Mapping[int, Any], Counters]:
        async with self._turn(is_alone):
            block = _Block(self._scheduler, runner, items)
            start_s = time.monotonic()
            until_s = start_s + self._block_s
            try:
                while len(block.results) < len(items):
                    is_draining = self._scheduler.is_draining
                    is_over = is_draining or time.monotonic() >= until_s
                    is_idle = not block.rows
                    if is_over and (block.results or (is_draining and is_idle)):
                        break
                    await block.advance(may_start=is_idle or not is_over, until_s=None if is_over else until_s)
            finally:
                block.drop()
            self._scheduler.stats.num_rows += len(block.results)
            block.counters.worker_s = (time.monotonic() - start_s) / BLOCKS_AT_WORK
            return block.results, block.counters

    @asynccontextmanager
    async def _turn(self, is_alone: bool) -> AsyncIterator[None]:
        """Waits for a place, or for all of them; who came first goes first."""
        num_taken = 0
        try:
            async with self._door:
                for _ in range(BLOCKS_AT_WORK if is_alone else 1):
                    await self._places.acquire()
                    num_taken += 1
            yield
        finally:
            for _ in range(num_taken):
                self._places.release()


class _Block:
    """One block at work.

    Attributes:
        rows: Rows that have been started and have no result yet.
        results: Place: result or `RowError`.
        counters: What the block has cost.
    """

    def __init__(self, scheduler: Scheduler, runner: Runner, items: Sequence[MakeItem]) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._items = deque(enumerate(items))
        self._rows_at_once = 4
        self.rows: list[_Row] = []
        self.results: dict[int, Any] = {}
        self.counters = Counters()

    async def advance(self, may_start: bool, until_s: float | None) -> None:
        """Takes the next step: preprocesses, waits for the device, or postprocesses what it has done."""
        open_row = next((row for row in self.rows if row.rest is not None), None)
        has_room = sum(row.job.num_missing for row in self.rows) < CHUNKS_AHEAD
        if open_row is not None and has_room:
            await self._continue(open_row)
        elif self._items and may_start and has_room:
            await self._start()
        else:
            timeout_s = None if until_s is None else max(0.0, until_s - time.monotonic())
            if open_row is not None or self._items:
                # There is more to make once there is room, which may be long before a row is done.
                timeout_s = ROOM_S if timeout_s is None else min(ROOM_S, timeout_s)
            waited_for = [row.job.future for row in self.rows]
            await asyncio.wait(waited_for, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        await self._collect()

    def drop(self) -> None:
        """Nobody waits for what is not done any more."""
        for row in self.rows:
            row.job.is_dropped = True

    async def _start(self) -> None:
        """Makes the first chunks of some rows."""
        runner, scheduler = self._runner, self._scheduler
        if runner.steps.is_random:
            # Random numbers are the process's: preprocessing under a seed belongs to the thread that forwards.
            index, make_item = self._items.popleft()
            row = _Row(index, scheduler.batch_job(self.counters))
            self.rows.append(row)
            scheduler.enter_batch_call(row.job, lambda: next(iter(runner.outputs([runner.preprocess(make_item())]))))
            return
        some = list(islice(self._items, self._rows_at_once))
        before_s = self.counters.preprocess_s
        made = await self._on_cpu("preprocess_s", partial(_first_chunks, runner, [make for _, make in some]))
        is_quick = self.counters.preprocess_s - before_s < CPU_SLICE_S
        self._rows_at_once = min(MAX_ROWS_AT_ONCE, 2 * len(some)) if is_quick else max(1, len(made) // 2)
        for chunks, rest in made:
            index, _ = self._items.popleft()
            row = _Row(index, scheduler.batch_job(self.counters))
            self.rows.append(row)
            self._enter(row, chunks, rest)

    async def _continue(self, row: _Row) -> None:
        """Makes the next chunks of a row that has many."""
        assert row.rest is not None
        self._enter(row, *await self._on_cpu("preprocess_s", partial(_next_chunks, row.rest)))

    def _enter(self, row: _Row, chunks: Any, rest: Iterator[Any] | None) -> None:
        if isinstance(chunks, RowError):
            row.rest, row.job.is_dropped = None, True
            row.job.resolve(chunks)
            return
        row.rest = rest
        self._scheduler.enter_batch(row.job, self._runner, chunks, is_complete=rest is None)

    async def _collect(self) -> None:
        """Makes results of the outputs that are there."""
        done = [row for row in self.rows if row.job.future.done()]
        if not done:
            return
        outputs = [row.job.future.result() for row in done]
        made = await self._on_cpu("postprocess_s", partial(_postprocessed, self._runner, outputs))
        for row, result in zip(done, made, strict=False):
            self.results[row.index] = result
            self.rows.remove(row)

    async def _on_cpu(self, counter: str, function: Callable[[], Any]) -> Any:
        made, elapsed_s = await self._scheduler.on_cpu_later(partial(_timed, function))
        setattr(self.counters, counter, getattr(self.counters, counter) + elapsed_s)
        return made


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start_s = time.perf_counter()
    return function(), time.perf_counter() - start_s


def _first_chunks(runner: Runner, items: Sequence[MakeItem]) -> list[Any]:
    """The first chunks of as many items as there is time for, each with the rest of its chunks; at least of one."""
    if runner.steps.group_size > 1:
        some = [make_item() for make_item in items]
        together = runner.preprocess_many(some)
        return [
            (chunks, None) if chunks is not None else _next_chunks(runner.explode(item))
            for item, chunks in zip(some, together, strict=True)
        ]
    made: list[Any] = []
    until_s = time.perf_counter() + CPU_SLICE_S
    for make_item in items:
        made.append(_next_chunks(runner.explode(make_item())))
        if time.perf_counter() >= until_s:
            break
    return made


def _next_chunks(chunks: Iterator[Any]) -> tuple[Any, Iterator[Any] | None]:
    some = list(islice(chunks, CHUNKS_AT_ONCE))
    if some and isinstance(some[-1], RowError):
        return some[-1], None
    return some, chunks if len(some) == CHUNKS_AT_ONCE else None


def _postprocessed(runner: Runner, outputs: Sequence[Any]) -> list[Any]:
    """The results of as many rows as there is time for; at least of one."""
    made: list[Any] = []
    until_s = time.perf_counter() + CPU_SLICE_S
    for one in outputs:
        made.append(runner.postprocess(one))
        if time.perf_counter() >= until_s:
            break
    return made
