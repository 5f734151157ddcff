"""Two lanes in front of one device: online requests first, batch jobs in slices between them.

    request ─► prepare (CPU thread) ─► online lane ─┐
                                                    ├─► device thread ─► finish (CPU thread) ─► answer
    block   ─► prepare (CPU thread) ─► batch lane ──┘

A forward is formed when the device is free, from what waits at that moment: entries of equal parameters and of about
the same cost as the oldest. Nobody waits for a batch to fill, so a lone request has no delay added; under load,
batches grow by themselves. Entries are chunks, so a long recording does not hold up others for longer than one forward.

The batch lane has the device when no online entry waits. Its slices are as large as the executor's batches while
nobody is online, and else as large as `slice_budget_ms` allows, by what forwards have cost lately. Once it has waited
for `STARVING_S`, it gets a slice anyway.

Why not `@serve.batch`: it forms batches before it can run them, fails all for one, and knows neither cost nor lanes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar, cast

from ray_pipelines.engine.batching import cost
from ray_pipelines.engine.memory import exit_if_device_lost
from ray_pipelines.engine.runner import Runner
from ray_pipelines.errors import RowError, attempt
from ray_pipelines.serve.config import ServeConfig
from ray_pipelines.serve.refusals import Refused, refusal_of

__all__ = ["Scheduler", "SchedulerStats"]

T = TypeVar("T")
Lane = Literal["online", "batch"]
STARVING_S = 1.0
ONLINE_FOR_S = 1.0
"""How long after the last online request batch slices stay short."""
BATCH_GIVES_WAY_S = 0.2
"""How much later than that of a request the preprocessing of a batch job's rows is due."""
ROWS_PREPARED_AT_ONCE = 8
ROWS_PREPARED_AHEAD = 256
MAX_VARIANTS = 64
SMOOTHING = 0.2


@dataclass
class SchedulerStats:
    """What a scheduler has done, and what waits.

    Attributes:
        num_requests, num_rows: Online inputs and batch rows that were answered.
        num_refused, num_dropped: Inputs refused for lack of room; dropped because nobody waits for them any more.
        num_forwards: Picks of the device thread, by lane.
        num_entries: Chunks in them, by lane.
        busy_s: Seconds of them, by lane.
    """

    num_requests: int = 0
    num_rows: int = 0
    num_refused: int = 0
    num_dropped: int = 0
    num_forwards: dict[Lane, int] = field(default_factory=lambda: {"online": 0, "batch": 0})
    num_entries: dict[Lane, int] = field(default_factory=lambda: {"online": 0, "batch": 0})
    busy_s: dict[Lane, float] = field(default_factory=lambda: {"online": 0.0, "batch": 0.0})


class _Job:
    """One input on its way through the device; its future is resolved in the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, deadline_s: float) -> None:
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.deadline_s = deadline_s
        self.outputs: list[Any] = []
        self.num_missing = 0
        self.is_dropped = False

    def resolve(self, value: Any) -> None:
        _call_in(self.loop, self._set, value)

    def _set(self, value: Any) -> None:
        if not self.future.done():
            self.future.set_result(value)


@dataclass
class _Entry:
    """A chunk that waits for the device, or a call that needs it to itself."""

    job: _Job
    index: int
    cost: int
    runner: Runner | None = None
    chunk: Any = None
    call: Callable[[], Any] | None = None


class Scheduler:
    """Runs inputs of one pipeline from several callers on one device.

    Args:
        runner: The executor of the loaded pipeline.
        config: Limits of the queue, the time of a request and of a slice.
    """

    def __init__(self, runner: Runner, config: ServeConfig) -> None:
        self.runner = runner
        self.stats = SchedulerStats()
        self.is_draining = False
        self._config = config
        self._lanes: dict[Lane, deque[_Entry]] = {"online": deque(), "batch": deque()}
        self._queued_cost = 0
        self.num_waiting = 0
        self._seconds_per_cost = 0.0
        self._last_online_s = self._last_slice_s = self._beat_s = float("-inf")
        self._is_busy = False
        self._variants: OrderedDict[Any, Runner] = OrderedDict()
        self._changed = threading.Condition()
        self._is_closed = False
        self._cpu = _CpuThread()
        self._device = threading.Thread(target=self._serve_device, name="device", daemon=True)
        self._device.start()

    # --- what callers use

    def variant(self, parameters: Any, seed: int | None = None) -> Runner:
        """The runner for other parameters of the task; the same object for equal ones, so that they share forwards."""
        key = (parameters.model_dump_json(exclude_unset=True), seed)
        if key not in self._variants:
            self._variants[key] = self.runner.with_parameters(parameters, seed)
            if len(self._variants) > MAX_VARIANTS:
                self._variants.popitem(last=False)
        self._variants.move_to_end(key)
        return self._variants[key]

    async def outputs(self, runner: Runner, prepare: Callable[[], Any]) -> Any:
        """The model outputs of the chunks of one online input.

        Args:
            runner: Of `variant`.
            prepare: Gives the chunks, or a `RowError`; called in the CPU thread.

        Raises:
            Refused: No room (429), too late (504), or the input cannot be processed.
        """
        self._admit()
        self._last_online_s = time.monotonic()
        self.num_waiting += 1
        job = _Job(asyncio.get_running_loop(), time.monotonic() + self._config.timeout_s)
        try:
            outputs = await asyncio.wait_for(self._outputs(job, runner, prepare), self._config.timeout_s)
        except TimeoutError:
            raise Refused(504, f"No result within {self._config.timeout_s:g} seconds.", "timeout") from None
        finally:
            job.is_dropped = True
            self.num_waiting -= 1
        if isinstance(outputs, RowError):
            raise refusal_of(outputs)
        self.stats.num_requests += 1
        return outputs

    async def call(self, function: Callable[[], Any]) -> Any:
        """The result of `function()`, run on the device thread as an online entry of its own: a streamed generation."""
        self._admit()
        self._last_online_s = time.monotonic()
        job = _Job(asyncio.get_running_loop(), float("inf"))
        self._put("online", [_Entry(job, 0, 0, call=function)])
        try:
            return await job.future
        finally:
            job.is_dropped = True

    async def on_cpu(self, function: Callable[[], T]) -> T:
        """The result of `function()`, run on the CPU thread ahead of batch work.

        Raises:
            Refused: `function` raises it, or fails.
        """
        made = await self._cpu.run("online", function)
        if isinstance(made, RowError):
            raise refusal_of(made)
        return cast(T, made)

    async def run_block(self, runner: Runner, items: Sequence[Callable[[], Any]]) -> list[Any]:
        """The results or `RowError`s of a block of a batch job, in order, at the lowest priority.

        Args:
            runner: Of `variant`.
            items: Each gives what `Steps.preprocess` takes, or a `RowError`; called in the CPU thread.

        Raises:
            Refused: 503: the replica is draining; the block belongs to another.
        """
        loop = asyncio.get_running_loop()
        jobs: list[_Job] = []
        for start in range(0, len(items), ROWS_PREPARED_AT_ONCE):
            if self.is_draining:
                raise Refused(503, "This replica is going away.", "draining")
            while len(jobs) - sum(job.future.done() for job in jobs) > ROWS_PREPARED_AHEAD:
                await asyncio.wait([job.future for job in jobs if not job.future.done()], return_when="FIRST_COMPLETED")
            some = items[start : start + ROWS_PREPARED_AT_ONCE]
            made = await self._cpu.run("batch", partial(_preprocessed, runner, some))
            for chunks in made:
                job = _Job(loop, float("inf"))
                jobs.append(job)
                self._enter("batch", job, runner, chunks)
        results = []
        for job in jobs:
            outputs = await job.future
            results.append(await self._cpu.run("batch", partial(runner.postprocess, outputs)))
        self.stats.num_rows += len(results)
        return results

    def queue_depth(self, lane: Lane) -> int:
        """Chunks that wait in a lane."""
        return len(self._lanes[lane])

    def is_wedged(self, after_s: float) -> bool:
        """Whether one forward has held the device for longer than `after_s`."""
        return self._is_busy and time.monotonic() - self._beat_s > after_s

    def close(self) -> None:
        """Ends the threads; what waits is not answered any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._cpu.close()

    # --- on the way to the device

    def _admit(self) -> None:
        wait_s = self._queued_cost * self._seconds_per_cost
        if self.num_waiting >= self._config.max_queue_requests or wait_s > self._config.max_queue_s:
            self.stats.num_refused += 1
            raise Refused(429, "The endpoint is busy; try again later.", retry_after_s=max(1.0, wait_s / 2))

    async def _outputs(self, job: _Job, runner: Runner, prepare: Callable[[], Any]) -> Any:
        if runner.steps.is_random:
            # Random numbers are the process's: preprocessing under a seed belongs to the thread that forwards.
            self._put("online", [_Entry(job, 0, 0, call=lambda: next(iter(runner.outputs([prepare()]))))])
            return await job.future
        self._enter("online", job, runner, await self._cpu.run("online", prepare))
        return await job.future

    def _enter(self, lane: Lane, job: _Job, runner: Runner, chunks: Any) -> None:
        if isinstance(chunks, RowError) or not chunks:
            job.resolve(chunks)
            return
        job.outputs = [None] * len(chunks)
        job.num_missing = len(chunks)
        self._put(lane, [_Entry(job, index, cost(chunk), runner, chunk) for index, chunk in enumerate(chunks)])

    def _put(self, lane: Lane, entries: Iterable[_Entry]) -> None:
        with self._changed:
            for entry in entries:
                self._lanes[lane].append(entry)
                self._queued_cost += entry.cost if lane == "online" else 0
            self._changed.notify_all()

    # --- the device thread

    def _serve_device(self) -> None:
        while True:
            with self._changed:
                while not self._is_closed and not any(self._lanes.values()):
                    self._changed.wait()
                if self._is_closed:
                    return
                lane, picked = self._pick()
            if not picked:
                continue
            start_s = self._beat_s = time.monotonic()
            self._is_busy = True
            exit_if_device_lost(partial(self._forward, picked))
            self._is_busy = False
            self._note(lane, picked, time.monotonic() - start_s)

    def _pick(self) -> tuple[Lane, list[_Entry]]:
        """What shares the next forward; called with the lock held."""
        now_s = time.monotonic()
        is_starving = bool(self._lanes["batch"]) and now_s - self._last_slice_s > STARVING_S
        lane: Lane = "online" if self._lanes["online"] and not is_starving else "batch"
        forgotten = [entry for entry in self._lanes[lane] if entry.job.is_dropped or entry.job.deadline_s < now_s]
        if forgotten:
            self._remove(lane, forgotten)
            self.stats.num_dropped += len(forgotten)
        waiting = self._lanes[lane]
        if not waiting:
            return lane, []
        oldest = waiting[0]
        if oldest.runner is None:
            return lane, self._remove(lane, [oldest])
        fitting = [
            entry
            for entry in itertools.islice(waiting, ROWS_PREPARED_AHEAD)
            if entry.runner is oldest.runner and _is_near(entry.cost, oldest.cost) and not entry.job.is_dropped
        ]
        if lane == "batch":
            self._last_slice_s = now_s
        return lane, self._remove(lane, fitting[: self._max_entries(lane, oldest, now_s)])

    def _max_entries(self, lane: Lane, oldest: _Entry, now_s: float) -> int:
        assert oldest.runner is not None
        most = oldest.runner.max_size
        if lane == "batch" and now_s - self._last_online_s < ONLINE_FOR_S and self._seconds_per_cost:
            in_budget = self._config.slice_budget_ms / 1000 / (self._seconds_per_cost * max(1, oldest.cost))
            most = min(most, int(in_budget))
        return max(1, most)

    def _remove(self, lane: Lane, entries: list[_Entry]) -> list[_Entry]:
        chosen = {id(entry) for entry in entries}
        self._lanes[lane] = deque(entry for entry in self._lanes[lane] if id(entry) not in chosen)
        if lane == "online":
            self._queued_cost -= sum(entry.cost for entry in entries)
        return entries

    def _forward(self, picked: list[_Entry]) -> None:
        first = picked[0]
        if first.call is not None:
            first.job.resolve(attempt("forward", first.call))
            return
        assert first.runner is not None
        outputs = first.runner.outputs([entry.chunk] for entry in picked)
        for entry, output in zip(picked, outputs, strict=True):
            job = entry.job
            if isinstance(output, RowError):
                job.is_dropped = True
                job.resolve(output)
                continue
            (job.outputs[entry.index],) = output
            job.num_missing -= 1
            if not job.num_missing:
                job.resolve(job.outputs)

    def _note(self, lane: Lane, picked: list[_Entry], elapsed_s: float) -> None:
        self.stats.num_forwards[lane] += 1
        self.stats.num_entries[lane] += len(picked)
        self.stats.busy_s[lane] += elapsed_s
        padded = max(entry.cost for entry in picked) * len(picked)
        if padded:
            latest = elapsed_s / padded
            known = self._seconds_per_cost
            self._seconds_per_cost = latest if not known else known + SMOOTHING * (latest - known)


def _preprocessed(runner: Runner, items: Iterable[Callable[[], Any]]) -> list[Any]:
    return [runner.preprocess(make_item()) for make_item in items]


def _is_near(one: int, other: int) -> bool:
    """Whether padding one to the other is cheaper than two forwards."""
    return max(one, other) <= 2 * min(one, other) + 16


class _CpuThread:
    """One thread for tokenizers and decoders, which are not safe in several.

    Work goes in the order in which it is due: that of requests at once, that of batch jobs a little later, so that it
    gives way but is never starved.
    """

    def __init__(self) -> None:
        self._queue: queue.PriorityQueue[tuple[float, int, Any]] = queue.PriorityQueue()
        self._number = itertools.count()
        threading.Thread(target=self._serve, name="cpu", daemon=True).start()

    async def run(self, lane: Lane, function: Callable[[], Any]) -> Any:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        due_s = time.monotonic() + (BATCH_GIVES_WAY_S if lane == "batch" else 0)
        self._queue.put((due_s, next(self._number), (loop, future, function)))
        return await future

    def close(self) -> None:
        self._queue.put((float("-inf"), next(self._number), None))

    def _serve(self) -> None:
        while True:
            _, _, work = self._queue.get()
            if work is None:
                return
            loop, future, function = work
            if future.cancelled():
                continue
            _call_in(loop, _settle, future, attempt("preprocess", function))


def _call_in(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: Any) -> None:
    """Calls in the thread of an event loop, unless that has ended with its callers."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *arguments)


def _settle(future: asyncio.Future[Any], value: Any) -> None:
    if future.done():
        return
    if isinstance(value, RowError) and isinstance(value.__cause__, Refused):
        future.set_exception(value.__cause__)
    else:
        future.set_result(value)
