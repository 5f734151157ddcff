"""Keeps the time of each step of a worker, and ends what takes too long.

At its time limit a step is interrupted from within, which Python code notices at once: the row fails with `RowTimeout`
and the worker goes on. What does not come back then, because it waits in native code, costs the worker: the process
ends (`os._exit`: `sys.exit` would hang Ray), Ray starts another, and that one finds in the journal which row it was.
Native code that keeps Python from running as well ends the same way, by the timer of `faulthandler`, which needs none.
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from ray_pipelines.data.journal import Journal, batch_key, job_folder
from ray_pipelines.engine.watch import Watch
from ray_pipelines.errors import RowError, RowTimeout, Stage

__all__ = ["Watchdog"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

GRACE_S = 5.0
"""Seconds that an interrupted step has to come back."""


@dataclass
class _Step:
    """A step that a thread is in."""

    thread: int
    ends_at_s: float
    is_interrupted: bool = False


class Watchdog(Watch):
    """Watches the steps of one process, and notes them in the journal of the batch that is worked on.

    Args:
        timeout_s: Seconds that one step of a row, or one forward of a batch, may take; None for no limit.
        folder: Where journals are kept; unset, the folder of this Ray job on this node.
    """

    def __init__(self, timeout_s: float | None, folder: Path | None = None) -> None:
        self.timeout_s = timeout_s
        self._folder = folder if folder is not None else job_folder()
        self._journal: Journal | None = None
        self._rows: Sequence[int] = ()
        self._steps: dict[int, _Step] = {}
        self._lock = threading.Lock()
        self._grace_s = min(GRACE_S, timeout_s) if timeout_s is not None else 0.0
        self._stacks: Path | None = None
        # What is raised in another thread must be a class, which is made there without arguments.
        message = str(RowTimeout.after(timeout_s))
        self._error = type("RowTimeout", (RowTimeout,), {"__init__": lambda error: RowTimeout.__init__(error, message)})
        if timeout_s is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._stacks = self._folder / f"stacks-{os.getpid()}-{uuid.uuid4().hex[:8]}"
            arguments = (weakref.ref(self), self._stacks, min(1.0, timeout_s / 4), timeout_s + self._grace_s)
            threading.Thread(target=_watch, args=arguments, name="watchdog", daemon=True).start()

    def results(self, table: pa.Table, stage: str, run: Callable[[Sequence[int]], Iterable[Any]]) -> list[Any]:
        """The result of each row of `table`, or its `RowError`, in order; deadly rows are not run any more.

        Args:
            table: The columns that the rows are known by.
            stage: Distinguishes the stages of a dataset.
            run: Gives the results of some rows; rows under suspicion are run by themselves.
        """
        with Journal.open(self._folder, batch_key(table, stage), self._stacks) as journal:
            self._journal = journal
            done: dict[int, Any] = {}
            for row, record in sorted(journal.records.items()):
                error = record.verdict(self.timeout_s)
                done[row] = error if error is not None else next(iter(self._run(run, [row])))
            rest = [row for row in range(table.num_rows) if row not in done]
            done.update(zip(rest, self._run(run, rest), strict=True))
            self._journal = None
        return [done[row] for row in range(table.num_rows)]

    def each(self, table: pa.Table, stage: str) -> Iterator[tuple[int, RowError | None]]:
        """The rows of `table` in order, to be run one at a time, and the `RowError` of one that is not to be run.

        For a stage whose results are too large to be kept until the last row is done.

        Args:
            table: The columns that the rows are known by.
            stage: Distinguishes the stages of a dataset.
        """
        with Journal.open(self._folder, batch_key(table, stage), self._stacks) as journal:
            for row in range(table.num_rows):
                self._journal, self._rows = journal, [row]
                record = journal.records.get(row)
                yield row, record.verdict(self.timeout_s) if record is not None else None
            self._journal = None

    def _run(self, run: Callable[[Sequence[int]], Iterable[Any]], rows: Sequence[int]) -> Iterable[Any]:
        self._rows = rows
        return run(rows)

    def run(self, stage: Stage, rows: Sequence[int], function: Callable[[], T]) -> T:
        """As `Watch.run`, noted in the journal."""
        journal = self._journal
        if journal is None:
            return function()
        thread = threading.get_ident()
        journal.begin(thread, stage, [self._rows[row] for row in rows])
        try:
            if self.timeout_s is None:
                return function()
            self._steps[thread] = _Step(thread, time.monotonic() + self.timeout_s)
            return function()
        finally:
            try:
                self._end(thread)
            except RowTimeout:
                # It arrived here, at the last moment; the step itself came back.
                self._end(thread)
            journal.end(thread)

    def blame_last(self) -> None:
        """Notes that this process is about to end because of the rows it touched last."""
        if self._journal is not None:
            self._journal.blame_last()

    # --- the watching thread

    def _end(self, thread: int) -> None:
        """No longer watches a step; an interruption that was sent but has not arrived yet is called back."""
        with self._lock:
            step = self._steps.pop(thread, None)
            if step is not None and step.is_interrupted:
                _send(thread, None)

    def end_overdue(self) -> None:
        """Interrupts the steps whose time is up, or ends the process if they did not heed that."""
        now_s = time.monotonic()
        for step in list(self._steps.values()):
            if now_s >= step.ends_at_s:
                self._interrupt_or_exit(step)

    def _interrupt_or_exit(self, step: _Step) -> None:
        with self._lock:
            if self._steps.get(step.thread) is not step:
                return
            if not step.is_interrupted:
                step.is_interrupted = True
                step.ends_at_s = time.monotonic() + self._grace_s
                _send(step.thread, self._error)
                return
            if self._journal is not None:
                self._journal.time_is_up(step.thread)
            logger.error(
                "A step takes more than %g s and cannot be interrupted; the worker starts anew.", self.timeout_s
            )
            logging.shutdown()
            os._exit(1)


def _watch(watchdog: weakref.ref[Watchdog], stacks_path: Path, tick_s: float, limit_s: float) -> None:
    """Looks after a watchdog's steps until it is gone."""
    with stacks_path.open("w") as stacks:
        while True:
            # Ends the process if this thread does not come around to set it anew.
            faulthandler.dump_traceback_later(limit_s + 2 * tick_s, exit=True, file=stacks)
            time.sleep(tick_s)
            alive = watchdog()
            if alive is None:
                break
            alive.end_overdue()
            del alive
        faulthandler.cancel_dump_traceback_later()
    stacks_path.unlink(missing_ok=True)


def _send(thread: int, error: type[BaseException] | None) -> None:
    """Raises `error` in another thread at its next line of Python; None takes back what has not arrived yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error) if error else None)
