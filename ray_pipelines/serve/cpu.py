"""One thread for tokenizers and decoders, which are not safe in several.

Work goes in the order in which it is due: that of requests at once, that of batch jobs a little later, so that it gives
way but is never starved.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from ray_pipelines.errors import RowError, attempt
from ray_pipelines.serve.refusals import Refused

__all__ = ["CpuThread", "Lane", "call_in"]

Lane = Literal["online", "batch"]
BATCH_GIVES_WAY_S = 0.2
"""How much later than that of a request the preprocessing of a batch job's rows is due."""


class CpuThread:
    """The thread, and what waits for it."""

    def __init__(self) -> None:
        self._queue: queue.PriorityQueue[tuple[float, int, Any]] = queue.PriorityQueue()
        self._number = itertools.count()
        self._since_s: float | None = None
        threading.Thread(target=self._serve, name="cpu", daemon=True).start()

    async def run(self, lane: Lane, function: Callable[[], Any]) -> Any:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        due_s = time.monotonic() + (BATCH_GIVES_WAY_S if lane == "batch" else 0)
        self._queue.put((due_s, next(self._number), (loop, future, function)))
        return await future

    @property
    def busy_s(self) -> float:
        since_s = self._since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

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
            self._since_s = time.monotonic()
            made = attempt("preprocess", function)
            self._since_s = None
            call_in(loop, _settle, future, made)


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
