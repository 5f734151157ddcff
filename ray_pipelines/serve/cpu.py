"""One thread for tokenizers and decoders, which are not safe in several.

Work goes in the order in which it is due: that of requests at once, that of batch jobs a little later, so that it gives
way but is never starved. A request with many inputs has one of them due at a time, the next once that is done: others
wait for one input of it, not for all.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from ray_pipelines.errors import attempt

__all__ = ["CpuThread", "Lane", "call_in", "current_caller", "one_at_a_time"]

Lane = Literal["online", "batch"]
BATCH_GIVES_WAY_S = 0.2
"""How much later than that of a request the preprocessing of a batch job's rows is due."""


_caller: ContextVar[object | None] = ContextVar("_caller", default=None)


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """What tasks that are created in the block ask of the thread is done in turn with what others ask of it."""
    token = _caller.set(object())
    try:
        yield
    finally:
        _caller.reset(token)


def current_caller() -> object:
    """Who asks in this context: the same for all of `one_at_a_time`."""
    return _caller.get() or object()


@dataclass
class _Step:
    function: Callable[[], Any]
    done: Callable[[Any], None]
    is_dropped: Callable[[], bool]


class CpuThread:
    """The thread, and what waits for it."""

    def __init__(self) -> None:
        self._callers: queue.PriorityQueue[tuple[float, int, object]] = queue.PriorityQueue()
        self._work: dict[object, deque[_Step]] = {}
        self._lock = threading.Lock()
        self._number = itertools.count()
        self._since_s: float | None = None
        threading.Thread(target=self._serve, name="cpu", daemon=True).start()

    async def run(self, lane: Lane, function: Callable[[], Any]) -> Any:
        """The result of `function()`, or its `RowError`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        caller = current_caller() if lane == "online" else object()
        self.put(caller, function, partial(call_in, loop, _settle, future), future.cancelled, lane)
        return await future

    def put(
        self,
        caller: object,
        function: Callable[[], Any],
        done: Callable[[Any], None],
        is_dropped: Callable[[], bool],
        lane: Lane = "online",
    ) -> None:
        """Has `function` called, from any thread.

        Args:
            caller: Of `current_caller`.
            function: What is to be done.
            done: Takes its result, or its `RowError`, in the CPU thread.
            is_dropped: Whether nobody waits for it any more when its turn has come.
            lane: Whether it is a request's or a batch job's.
        """
        with self._lock:
            waits = caller in self._work
            self._work.setdefault(caller, deque()).append(_Step(function, done, is_dropped))
        if not waits:
            self._put(caller, BATCH_GIVES_WAY_S if lane == "batch" else 0)

    @property
    def busy_s(self) -> float:
        since_s = self._since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def close(self) -> None:
        self._put(None, float("-inf"))

    def _put(self, caller: object, delay_s: float = 0) -> None:
        self._callers.put((time.monotonic() + delay_s, next(self._number), caller))

    def _serve(self) -> None:
        while True:
            _, _, caller = self._callers.get()
            if caller is None:
                return
            step = self._work[caller].popleft()
            if not step.is_dropped():
                self._since_s = time.monotonic()
                made = attempt("preprocess", step.function)
                self._since_s = None
                step.done(made)
            with self._lock:
                is_done = not self._work[caller]
                if is_done:
                    del self._work[caller]
            if not is_done:
                self._put(caller)


def call_in(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: Any) -> None:
    """Calls in the thread of an event loop, unless that has ended with its callers."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *arguments)


def _settle(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)
