"""What waits for the device: chunks of requests in one lane, those of batch jobs' rows in the other."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ray_pipelines.engine.counters import Counters
from ray_pipelines.engine.runner import Runner
from ray_pipelines.serve.cpu import Lane, call_in

__all__ = ["Entry", "Job", "Lanes"]

STARVING_S = 1.0
CHUNKS_LOOKED_AT = 512


class Job:
    """One input on its way through the device; its future is resolved in the event loop.

    Outputs and counts are changed with the device's lock held.

    Args:
        loop: The event loop.
        deadline_s: When nobody waits for it any more, by `time.monotonic`.
        counters: What its forwards cost is added to these.
        finish: Takes the outputs, or a `RowError`, in the device's thread; unset, they resolve the future.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        deadline_s: float,
        counters: Counters | None = None,
        finish: Callable[[Any], None] | None = None,
    ) -> None:
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.deadline_s = deadline_s
        self.counters = counters
        self.finish = finish
        self.outputs: list[Any] = []
        self.num_missing = 0
        self.is_complete = True
        self.is_dropped = False

    def resolve_if_done(self) -> None:
        """Hands the outputs on once all are there; those of a job that is dropped, as where one failed, never."""
        if self.is_complete and not self.num_missing and not self.is_dropped:
            self.hand_on(self.outputs)

    def hand_on(self, outputs: Any) -> None:
        """Gives the outputs, or a `RowError`, to whoever goes on with them."""
        (self.finish or self.resolve)(outputs)

    def resolve(self, value: Any) -> None:
        """Resolves the future, from any thread."""
        call_in(self.loop, self._set, value)

    def _set(self, value: Any) -> None:
        if not self.future.done():
            self.future.set_result(value)


@dataclass
class Entry:
    """A chunk that waits for the device, or a call that needs it to itself.

    Attributes:
        cost: What it costs, with the tokens that may be generated.
        extra_cost: Those tokens.
    """

    job: Job
    index: int
    cost: int
    extra_cost: int = 0
    runner: Runner | None = None
    chunk: Any = None
    call: Callable[[], Any] | None = None


class Lanes:
    """The two lanes; the device's lock is held by whoever calls.

    Attributes:
        queued_cost: Cost of what waits in the online lane.
        num_dropped: Entries that nobody waited for any more when their turn came, or while they ran.
    """

    def __init__(self) -> None:
        self._lanes: dict[Lane, deque[Entry]] = {"online": deque(), "batch": deque()}
        self._last_slice_s = float("-inf")
        self.queued_cost = 0
        self.num_dropped = 0

    def depth(self, lane: Lane) -> int:
        """Entries that wait."""
        return len(self._lanes[lane])

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not any(self._lanes.values())

    def put(self, lane: Lane, entries: Iterable[Entry]) -> None:
        """Takes entries in, behind those that wait already."""
        for entry in entries:
            self._lanes[lane].append(entry)
            self.queued_cost += entry.cost if lane == "online" else 0

    def pick(self, max_entries: Callable[[Lane, Entry], int]) -> tuple[Lane, list[Entry]]:
        """What shares the next forward, which may be nothing.

        Args:
            max_entries: Given the oldest entry of a lane, says how many such may share a forward.
        """
        now_s = time.monotonic()
        is_starving = bool(self._lanes["batch"]) and now_s - self._last_slice_s > STARVING_S
        lane: Lane = "online" if self._lanes["online"] and not is_starving else "batch"
        forgotten = [entry for entry in self._lanes[lane] if entry.job.is_dropped or entry.job.deadline_s < now_s]
        if forgotten:
            self._remove(lane, forgotten)
            self.num_dropped += len(forgotten)
        waiting = self._lanes[lane]
        if not waiting:
            return lane, []
        if lane == "batch":
            self._last_slice_s = now_s
        oldest = waiting[0]
        if oldest.runner is None:
            return lane, self._remove(lane, [oldest])
        fitting = [
            entry
            for entry in itertools.islice(waiting, CHUNKS_LOOKED_AT)
            if entry.runner is oldest.runner and _is_near(entry.cost, oldest.cost) and not entry.job.is_dropped
        ]
        # Those of about the same cost: what does not fit has its turn when it is the oldest.
        fitting.sort(key=lambda entry: abs(entry.cost - oldest.cost))
        return lane, self._remove(lane, fitting[: max_entries(lane, oldest)])

    def _remove(self, lane: Lane, entries: list[Entry]) -> list[Entry]:
        chosen = {id(entry) for entry in entries}
        self._lanes[lane] = deque(entry for entry in self._lanes[lane] if id(entry) not in chosen)
        if lane == "online":
            self.queued_cost -= sum(entry.cost for entry in entries)
        return entries


def _is_near(one: int, other: int) -> bool:
    """Whether padding one to the other is cheaper than two forwards."""
    return max(one, other) <= 2 * min(one, other) + 16
