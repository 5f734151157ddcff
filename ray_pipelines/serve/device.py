"""The thread that has the device: it forms a forward from what waits, whenever the device is free."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ray_pipelines.engine.batching import cost
from ray_pipelines.engine.memory import exit_if_device_lost
from ray_pipelines.engine.runner import Runner
from ray_pipelines.errors import RowError, attempt
from ray_pipelines.serve.cpu import Lane
from ray_pipelines.serve.lanes import Entry, Job, Lanes
from ray_pipelines.serve.slices import LONGEST_S, SliceSize, smoothed
from ray_pipelines.serve.stopping import Abandoned

__all__ = ["DeviceThread", "SchedulerStats"]

PICKED_BATCHES = 2
"""Of requests: their answers come together, and the executor can try larger batches than it knows to be best."""


@dataclass
class SchedulerStats:
    """What a scheduler has done.

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


class DeviceThread:
    """The thread, and the lanes in front of it.

    Args:
        slice_budget_s: How long a slice of batch work may keep online entries waiting.
        is_online: Whether there was a request just now, so that slices are kept short.
        stats: What is counted here.
    """

    def __init__(self, slice_budget_s: float, is_online: Callable[[], bool], stats: SchedulerStats) -> None:
        self._lanes = Lanes()
        self._is_online = is_online
        self._stats = stats
        self._slices = {True: SliceSize(slice_budget_s), False: SliceSize(LONGEST_S)}
        self._seconds_per_cost: float | None = None
        self._since_s: float | None = None
        self._running: list[Entry] = []
        self._changed = threading.Condition()
        self._is_closed = False
        threading.Thread(target=self._serve, name="device", daemon=True).start()

    def put(self, lane: Lane, entries: Iterable[Entry]) -> None:
        """Takes entries in."""
        with self._changed:
            self._lanes.put(lane, entries)
            self._changed.notify_all()

    def put_chunks(self, lane: Lane, job: Job, runner: Runner, chunks: Sequence[Any], is_complete: bool = True) -> None:
        """Takes chunks of a job in, behind those that it has there already; `is_complete` if no more will come."""
        with self._changed:
            start = len(job.outputs)
            job.outputs += [None] * len(chunks)
            job.num_missing += len(chunks)
            job.is_complete = is_complete
            extra_cost = runner.steps.extra_cost
            entries = (
                Entry(job, start + index, cost(chunk) + extra_cost, extra_cost, runner, chunk)
                for index, chunk in enumerate(chunks)
            )
            self._lanes.put(lane, entries)
            self._changed.notify_all()
            job.resolve_if_done()

    def depth(self, lane: Lane) -> int:
        """Entries that wait in a lane."""
        return self._lanes.depth(lane)

    @property
    def queue_s(self) -> float:
        """Estimated seconds of the online entries that wait."""
        return self._lanes.queued_cost * (self._seconds_per_cost or 0.0)

    @property
    def busy_s(self) -> float:
        """For how long what runs now has been running."""
        since_s = self._since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody waits any more for anything of what runs now."""
        return bool(self._running) and all(entry.job.is_dropped for entry in self._running)

    def close(self) -> None:
        """Ends the thread; what waits is not done any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._is_closed and self._lanes.is_empty:
                    self._changed.wait()
                if self._is_closed:
                    return
                lane, picked = self._lanes.pick(self._max_entries)
                self._stats.num_dropped = self._lanes.num_dropped
            if not picked:
                continue
            start_s = self._since_s = time.monotonic()
            self._running = picked
            try:
                exit_if_device_lost(partial(self._forward, lane, picked))
                self._note(lane, picked, time.monotonic() - start_s)
            except Abandoned:
                self._lanes.num_dropped += len(picked)
                self._note_at_least(picked, time.monotonic() - start_s)
            finally:
                self._since_s, self._running = None, []
            if lane == "batch":
                self._hand_on(picked)

    def _max_entries(self, lane: Lane, oldest: Entry) -> int:
        assert oldest.runner is not None
        best = oldest.runner.batch_size(oldest.cost)
        if lane == "online":
            return min(oldest.runner.max_size, PICKED_BATCHES * best)
        is_online = self._is_online()
        size = self._slices[is_online].num_entries(oldest.cost)
        if not is_online:
            size = max(size, best)
        return min(oldest.runner.max_size, size)

    def _forward(self, lane: Lane, picked: list[Entry]) -> None:
        first = picked[0]
        if first.call is not None:
            first.job.hand_on(attempt("forward", first.call))
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
        self._stats.num_forwards[lane] += 1
        self._stats.num_entries[lane] += len(picked)
        self._stats.busy_s[lane] += elapsed_s
        padded = _padded_cost(picked)
        if lane == "batch" and padded:
            self._slices[self._is_online()].note(padded, elapsed_s)
        if lane == "online" and padded:
            self._slices[True].note_request(elapsed_s)
        generated = [entry.extra_cost for entry in picked]
        self._stats.cost[lane] += sum(entry.cost for entry in picked) - sum(generated)
        self._stats.padded_cost[lane] += padded - sum(generated)
        if padded:
            self._seconds_per_cost = smoothed(self._seconds_per_cost, elapsed_s / padded)

    def _note_at_least(self, picked: list[Entry], elapsed_s: float) -> None:
        """Learns from what was not finished: where all is late, nothing else would say so."""
        padded = _padded_cost(picked)
        if padded and elapsed_s / padded > (self._seconds_per_cost or 0.0):
            self._seconds_per_cost = smoothed(self._seconds_per_cost, elapsed_s / padded)


def _padded_cost(picked: Sequence[Entry]) -> int:
    return max(entry.cost for entry in picked) * len(picked)
