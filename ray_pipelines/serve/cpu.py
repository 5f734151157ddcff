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
from typing import Any, Literal

from ray_pipelines.errors import RowError, attempt
from ray_pipelines.serve.refusals import Refused

__all__ = ["CpuThread", "Lane", "call_in", "one_at_a_time"]

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


class CpuThread:
    """The thread, and what waits for it."""

    def __init__(self) -> None:
        self._callers: queue.PriorityQueue[tuple[float, int, object]] = queue.PriorityQueue()
        self._work: dict[object, deque[Any]] = {}
        self._lock = threading.Lock()
        self._number = itertools.count()
        self._since_s: float | None = None
        threading.Thread(target=self._serve, name="cpu", daemon=True).start()

    async def run(self, lane: Lane, function: Callable[[], Any]) -> Any:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        caller = (_caller.get() if lane == "online" else None) or object()
        with self._lock:
            waits = caller in self._work
            self._work.setdefault(caller, deque()).append((loop, future, function))
        if not waits:
            self._put(caller, BATCH_GIVES_WAY_S if lane == "batch" else 0)
        return await future

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
            loop, future, function = self._work[caller].popleft()
            if not future.cancelled():
                self._since_s = time.monotonic()
                made = attempt("preprocess", function)
                self._since_s = None
                call_in(loop, _settle, future, made)
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
    if future.done():
        return
    if isinstance(value, RowError) and isinstance(value.__cause__, Refused):
        future.set_exception(value.__cause__)
    else:
        future.set_result(value)
