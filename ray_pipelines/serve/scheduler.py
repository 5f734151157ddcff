"""Two lanes in front of one device: online requests first, batch jobs in slices between them.

    request ─► prepare (CPU thread) ─► online lane ─┐
                                                    ├─► device thread ─► finish (CPU thread) ─► answer
    block   ─► prepare (CPU thread) ─► batch lane ──┘

A forward is formed when the device is free, from what waits at that moment: entries of equal parameters and of about
the same cost as the oldest. Nobody waits for a batch to fill, so a lone request has no delay added; under load,
batches grow by themselves. Entries are chunks, so a long recording does not hold up others for longer than one forward.

The batch lane has the device when no online entry waits. Its slices are as large as the executor's batches while
nobody is online (or as several, up to `FULL_SLICE_S`), and else as large as `slice_budget_ms` allows, by what slices
have cost lately. Once it has waited for `STARVING_S`, it gets a slice anyway.
What cannot be cut is a single chunk's forward: a generation holds the device until it is done.

Why not `@serve.batch`: it forms batches before it can run them, fails all for one, and knows neither cost nor lanes.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

from ray_pipelines.engine.batching import cost
from ray_pipelines.engine.counters import Counters
from ray_pipelines.engine.memory import exit_if_device_lost
from ray_pipelines.engine.runner import Runner
from ray_pipelines.errors import RowError, attempt
from ray_pipelines.media.limits import MediaLimits
from ray_pipelines.serve.config import ServeConfig
from ray_pipelines.serve.cpu import CpuThread, Lane, call_in
from ray_pipelines.serve.refusals import Refused, refusal_of
from ray_pipelines.serve.slices import SliceSize

__all__ = ["Job", "Scheduler", "SchedulerStats"]

T = TypeVar("T")
STARVING_S = 1.0
ONLINE_FOR_S = 1.0
"""How long after the last online request batch slices stay short."""
FULL_SLICE_S = 0.1
CHUNKS_LOOKED_AT = 512
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
        cost: Tokens, pixels or samples in them, by lane.
        padded_cost: The same with padding.
    """

    num_requests: int = 0
    num_rows: int = 0
    num_refused: int = 0
    num_dropped: int = 0
    num_forwards: dict[Lane, int] = field(default_factory=lambda: {"online": 0, "batch": 0})
    num_entries: dict[Lane, int] = field(default_factory=lambda: {"online": 0, "batch": 0})
    busy_s: dict[Lane, float] = field(default_factory=lambda: {"online": 0.0, "batch": 0.0})
    cost: dict[Lane, int] = field(default_factory=lambda: {"online": 0, "batch": 0})
    padded_cost: dict[Lane, int] = field(default_factory=lambda: {"online": 0, "batch": 0})


class Job:
    """One input on its way through the device; its future is resolved in the event loop.

    Outputs and counts are changed with the scheduler's lock held.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, deadline_s: float, counters: Counters | None = None) -> None:
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.deadline_s = deadline_s
        self.counters = counters
        self.outputs: list[Any] = []
        self.num_missing = 0
        self.is_complete = True
        self.is_dropped = False

    def resolve_if_done(self) -> None:
        if self.is_complete and not self.num_missing:
            self.resolve(self.outputs)

    def resolve(self, value: Any) -> None:
        call_in(self.loop, self._set, value)

    def _set(self, value: Any) -> None:
        if not self.future.done():
            self.future.set_result(value)


@dataclass
class Entry:
    """A chunk that waits for the device, or a call that needs it to itself."""

    job: Job
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
        self._lanes: dict[Lane, deque[Entry]] = {"online": deque(), "batch": deque()}
        self._queued_cost = 0
        self.num_waiting = 0
        self._seconds_per_cost = 0.0
        self._slices = {True: SliceSize(config.slice_budget_ms / 1000), False: SliceSize(FULL_SLICE_S)}
        self._last_online_s = self._last_slice_s = self._beat_s = float("-inf")
        self._is_busy = False
        self._variants: OrderedDict[Any, Runner] = OrderedDict()
        self._changed = threading.Condition()
        self._is_closed = False
        self._cpu = CpuThread()
        self._device = threading.Thread(target=self._serve_device, name="device", daemon=True)
        self._device.start()

    # --- what callers use

    def variant(self, parameters: Any, seed: int | None = None, limits: MediaLimits | None = None) -> Runner:
        """The runner for other parameters of the task; the same object for equal ones, so that they share forwards.

        Args:
            parameters: Of the task.
            seed: Of what is drawn at random; unset, the pipeline's own.
            limits: What decoding may cost; unset, the pipeline's own.
        """
        key = (parameters.model_dump_json(exclude_unset=True), seed, limits)
        if key not in self._variants:
            runner = self._variants[key] = self.runner.with_parameters(parameters, seed)
            if limits is not None:
                runner.steps.limits = limits
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
        job = Job(asyncio.get_running_loop(), time.monotonic() + self._config.timeout_s)
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
        self.num_waiting += 1
        job = Job(asyncio.get_running_loop(), float("inf"))
        self._put("online", [Entry(job, 0, 0, call=function)])
        try:
            return await job.future
        finally:
            job.is_dropped = True
            self.num_waiting -= 1

    async def on_cpu(self, function: Callable[[], T]) -> T:
        """The result of `function()`, run on the CPU thread ahead of batch work.

        Raises:
            Refused: `function` raises it, or fails.
        """
        made = await self._cpu.run("online", function)
        if isinstance(made, RowError):
            raise refusal_of(made)
        return cast(T, made)

    async def on_cpu_later(self, function: Callable[[], T]) -> T:
        """The result of `function()`, run on the CPU thread once requests have had their turn."""
        return cast(T, await self._cpu.run("batch", function))

    def batch_job(self, counters: Counters) -> Job:
        """A row of a batch job that is to go through the device; what its forwards cost is added to `counters`."""
        return Job(asyncio.get_running_loop(), float("inf"), counters)

    def enter_batch(self, job: Job, runner: Runner, chunks: Sequence[Any], is_complete: bool) -> None:
        """Puts chunks of a row into the batch lane, behind those that it has there already.

        Args:
            job: Of `batch_job`.
            runner: Of `variant`.
            chunks: The next ones.
            is_complete: No more will come.
        """
        with self._changed:
            start = len(job.outputs)
            job.outputs += [None] * len(chunks)
            job.num_missing += len(chunks)
            job.is_complete = is_complete
            self._put(
                "batch", [Entry(job, start + index, cost(chunk), runner, chunk) for index, chunk in enumerate(chunks)]
            )
            job.resolve_if_done()

    def enter_batch_call(self, job: Job, function: Callable[[], Any]) -> None:
        """Puts a call into the batch lane, which runs on the device thread by itself and resolves `job`."""
        self._put("batch", [Entry(job, 0, 0, call=function)])

    def queue_depth(self, lane: Lane) -> int:
        """Chunks that wait in a lane."""
        return len(self._lanes[lane])

    @property
    def is_online(self) -> bool:
        """Whether there was a request just now, so that slices of batch jobs are kept short."""
        return self.num_waiting > 0 or time.monotonic() - self._last_online_s < ONLINE_FOR_S

    def is_wedged(self, after_s: float) -> bool:
        """Whether one forward, or one step on the CPU, has not come back for longer than `after_s`."""
        is_device_stuck = self._is_busy and time.monotonic() - self._beat_s > after_s
        return is_device_stuck or self._cpu.busy_s > after_s

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

    async def _outputs(self, job: Job, runner: Runner, prepare: Callable[[], Any]) -> Any:
        if runner.steps.is_random:
            # Random numbers are the process's: preprocessing under a seed belongs to the thread that forwards.
            self._put("online", [Entry(job, 0, 0, call=lambda: next(iter(runner.outputs([prepare()]))))])
            return await job.future
        chunks = await self._cpu.run("online", prepare)
        if isinstance(chunks, RowError) or not chunks:
            return chunks
        job.outputs = [None] * len(chunks)
        job.num_missing = len(chunks)
        self._put("online", [Entry(job, index, cost(chunk), runner, chunk) for index, chunk in enumerate(chunks)])
        return await job.future

    def _put(self, lane: Lane, entries: Iterable[Entry]) -> None:
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
            exit_if_device_lost(partial(self._forward, lane, picked))
            self._is_busy = False
            self._note(lane, picked, time.monotonic() - start_s)
            if lane == "batch":
                self._hand_on(picked)

    def _pick(self) -> tuple[Lane, list[Entry]]:
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
            for entry in itertools.islice(waiting, CHUNKS_LOOKED_AT)
            if entry.runner is oldest.runner and _is_near(entry.cost, oldest.cost) and not entry.job.is_dropped
        ]
        if lane == "batch":
            self._last_slice_s = now_s
        # Those of about the same cost: what does not fit has its turn when it is the oldest.
        fitting.sort(key=lambda entry: abs(entry.cost - oldest.cost))
        return lane, self._remove(lane, fitting[: self._max_entries(lane, oldest)])

    def _max_entries(self, lane: Lane, oldest: Entry) -> int:
        assert oldest.runner is not None
        if lane == "online":
            return oldest.runner.max_size
        size = self._slices[self.is_online].num_entries(oldest.cost)
        if not self.is_online:
            size = max(size, oldest.runner.batch_size(oldest.cost))
        return min(oldest.runner.max_size, size)

    def _remove(self, lane: Lane, entries: list[Entry]) -> list[Entry]:
        chosen = {id(entry) for entry in entries}
        self._lanes[lane] = deque(entry for entry in self._lanes[lane] if id(entry) not in chosen)
        if lane == "online":
            self._queued_cost -= sum(entry.cost for entry in entries)
        return entries

    def _forward(self, lane: Lane, picked: list[Entry]) -> None:
        first = picked[0]
        if first.call is not None:
            first.job.resolve(attempt("forward", first.call))
            return
        assert first.runner is not None
        before = first.runner.counters.copy() if first.job.counters is not None else None
        outputs = first.runner.outputs([entry.chunk] for entry in picked)
        for entry, output in zip(picked, outputs, strict=True):
            job = entry.job
            with self._changed:
                if isinstance(output, RowError):
                    job.is_dropped = True
                    job.outputs[entry.index] = output
                else:
                    (job.outputs[entry.index],) = output
                job.num_missing -= 1
            if lane == "online":
                # Rows of jobs wait until all of their slice is counted.
                self._hand_on([entry])
        if before is not None and first.job.counters is not None:
            first.job.counters.add(first.runner.counters.since(before).of_forwards())

    def _hand_on(self, picked: list[Entry]) -> None:
        """Resolves the inputs that are done."""
        for entry in picked:
            job = entry.job
            if entry.call is not None:
                continue
            with self._changed:
                output = job.outputs[entry.index]
                if isinstance(output, RowError):
                    job.resolve(output)
                else:
                    job.resolve_if_done()

    def _note(self, lane: Lane, picked: list[Entry], elapsed_s: float) -> None:
        self.stats.num_forwards[lane] += 1
        self.stats.num_entries[lane] += len(picked)
        self.stats.busy_s[lane] += elapsed_s
        padded = max(entry.cost for entry in picked) * len(picked)
        if lane == "batch" and padded:
            self._slices[self.is_online].note(padded, elapsed_s)
        self.stats.cost[lane] += sum(entry.cost for entry in picked)
        self.stats.padded_cost[lane] += padded
        if padded:
            latest = elapsed_s / padded
            known = self._seconds_per_cost
            self._seconds_per_cost = latest if not known else known + SMOOTHING * (latest - known)


def _is_near(one: int, other: int) -> bool:
    """Whether padding one to the other is cheaper than two forwards."""
    return max(one, other) <= 2 * min(one, other) + 16
