"""A job's side of a Serve application that runs its rows: bounded calls, and an end to every kind of waiting.

    rows ─► calls of up to 256 ─► two in flight per running replica ─► answers, in the order of the rows

What a replica hands back is sent again, and so is what a replica had when it was killed, redeployed or full: results
come out once however often rows went in. A row that kills replicas is found like one that kills workers: what was at
work when a replica died goes on in small parts, then row by row, with no other rows of jobs beside it; a row over which
a replica dies twice while it is alone is a dead letter. An application that is gone, or has no replica that runs, is
waited for as long as `workers.serve_wait_s` says.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from ray_pipelines.data.serve_calls import Answers, Gate
from ray_pipelines.engine.exchange import RowAnswers, RowBatch
from ray_pipelines.errors import JobError, RowError, WorkerKilled

__all__ = ["AppState", "Application", "Client", "Lost", "Unavailable"]

logger = logging.getLogger(__name__)

CALLS_PER_REPLICA = 2
PART_ROWS = (16, 1)
"""Rows of the calls in which those are tried again over which a replica may have died."""
DEATHS_ALONE = 2
MAX_DEATHS = 20
"""Replicas that may die one after the other without a single answer between them."""
MAX_TIMEOUTS = 3
POLL_S = 1.0
FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.05, 5.0


class Lost(Exception):
    """A call was at work when its replica died, or may have been."""


class Unavailable(Exception):
    """A call was turned away, or taken back, and can be made again."""


@dataclass(frozen=True)
class AppState:
    """How an application is.

    Attributes:
        status: As Serve calls it, or `NOT_FOUND`.
        num_running: Replicas that run.
    """

    status: str
    num_running: int


class Application(Protocol):
    """An application as the client needs it; `data/serve_app.py` has Serve's."""

    name: str

    async def state(self) -> AppState:
        """How it is now."""

    def call(self, batch: RowBatch) -> Awaitable[RowAnswers]:
        """The answers of some replica.

        Raises:
            Lost: The replica has died.
            Unavailable: The call must be made again.
            RayPipelinesError: The application cannot run these rows at all.
        """


class Client:
    """Sends the rows of one job to an application.

    Args:
        application: The application.
        wait_s: How long it may be gone or without a running replica.
        timeout_s: How long a call may take while replicas run; None for no limit.
        clock: Gives seconds.
    """

    def __init__(
        self,
        application: Application,
        wait_s: float,
        timeout_s: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._application = application
        self._wait_s = wait_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._gate = Gate(CALLS_PER_REPLICA)
        self._state = AppState("", 1)
        self._state_s = float("-inf")
        self._asking = asyncio.Lock()
        self._away_since_s: float | None = None
        self._answered_s = self._died_s = clock()
        self._num_deaths = 0

    async def run(self, batch: RowBatch, result_type: pa.DataType) -> RowAnswers:
        """The answers to all rows of `batch`, in their order.

        Args:
            batch: The rows; any number, also none.
            result_type: Arrow type of one result.

        Raises:
            JobError: The application is gone, does not answer, or loses one replica after the other.
            ConfigError: It has another task or model by now.
        """
        answers = Answers(batch)
        for rows in answers.calls():
            await self._run(answers, rows, 0)
        return answers.all(result_type)

    async def _run(self, answers: Answers, rows: Sequence[int], level: int) -> None:
        """Answers to `rows`: in one call, or after a death in parts and at last one by one."""
        num_deaths = 0
        while left := answers.missing(rows):
            try:
                await self._answered(answers, left, is_alone=level > 0)
                return
            except Lost:
                self._note_death()
            if level < len(PART_ROWS):
                left = answers.missing(rows)
                size = PART_ROWS[level]
                for start in range(0, len(left), size):
                    await self._run(answers, left[start : start + size], level + 1)
                return
            num_deaths += 1
            if num_deaths == DEATHS_ALONE:
                answers.fail(left[0], RowError.from_exception("forward", WorkerKilled()))

    async def _answered(self, answers: Answers, rows: Sequence[int], is_alone: bool) -> None:
        """Sends rows until all are answered.

        Raises:
            Lost: A replica has died over some that are not.
        """
        backoff_s, num_timeouts, start_s = FIRST_BACKOFF_S, 0, self._clock()
        while left := answers.missing(rows):
            async with self._gate.passed(is_alone):
                try:
                    made = await self._call(answers.batch.take(left, is_alone))
                except Unavailable:
                    made = None
                except TimeoutError:
                    made = None
                    num_timeouts += 1
                    if num_timeouts == MAX_TIMEOUTS:
                        raise JobError(
                            f"workers.serve: {self._application.name} has not answered {num_timeouts} calls of "
                            f"{len(left)} row(s) within {self._timeout_s:g} s each (workers.timeout_s)."
                        ) from None
            if made is not None and made.rows:
                answers.add(left, made)
                self._num_deaths, self._answered_s = 0, self._clock()
                backoff_s = FIRST_BACKOFF_S
                continue
            self._give_up_if_turned_away(start_s)
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.5))
            backoff_s = min(MAX_BACKOFF_S, 2 * backoff_s)
            await self._look()

    async def _call(self, batch: RowBatch) -> RowAnswers:
        """One call, which is given up once the application is gone for too long, or it takes too long itself.

        Raises:
            TimeoutError: Replicas run, and there is no answer.
        """
        await self._look()
        call = asyncio.ensure_future(self._application.call(batch))
        running_s, last_s = 0.0, self._clock()
        try:
            while True:
                done, _ = await asyncio.wait([call], timeout=POLL_S)
                if call.cancelled():
                    raise Unavailable("cancelled")
                if done:
                    return call.result()
                await self._look()
                now_s = self._clock()
                if self._state.num_running:
                    running_s += now_s - last_s
                last_s = now_s
                if self._timeout_s is not None and running_s > self._timeout_s:
                    raise TimeoutError
        finally:
            if not call.done():
                call.cancel()
                await asyncio.wait([call], timeout=POLL_S)

    async def _look(self) -> None:
        """Learns how the application is, at most once in `POLL_S`.

        Raises:
            JobError: It has been gone, or without a running replica, for too long.
        """
        async with self._asking:
            if self._clock() - self._state_s < POLL_S:
                return
            self._state = await self._application.state()
            self._state_s = self._clock()
            await self._gate.resize(CALLS_PER_REPLICA * max(1, self._state.num_running))
            if self._state.num_running:
                self._away_since_s = None
            elif self._away_since_s is None:
                self._away_since_s = self._state_s
        away_s = 0.0 if self._away_since_s is None else self._state_s - self._away_since_s
        if away_s > self._wait_s:
            name = self._application.name
            how = "is gone" if self._state.status == "NOT_FOUND" else f"is {self._state.status} and no replica runs"
            raise JobError(
                f"workers.serve: the application {name!r} {how} since {away_s:.0f} s (workers.serve_wait_s). What is "
                "written stays: deploy it again, and run the same job again."
            )

    def _give_up_if_turned_away(self, start_s: float) -> None:
        """Raises if replicas run and have taken no row for too long.

        Raises:
            JobError: They have not.
        """
        for_s = self._clock() - max(start_s, self._answered_s)
        if self._state.num_running and for_s > self._wait_s:
            raise JobError(
                f"workers.serve: the application {self._application.name!r} has turned away all rows of this job for "
                f"{for_s:.0f} s (workers.serve_wait_s). Is it overloaded, or is max_queued_requests of its deployment "
                "too small?"
            )

    def _note_death(self) -> None:
        if self._clock() - self._died_s < POLL_S and self._num_deaths:
            # Several calls were lost with one replica, or several replicas with one node.
            return
        self._died_s = self._clock()
        self._num_deaths += 1
        logger.warning("A replica of %s died while it had rows of this job.", self._application.name)
        if self._num_deaths > MAX_DEATHS:
            raise JobError(
                f"workers.serve: {MAX_DEATHS} replicas of {self._application.name} have died one after the other over "
                "rows of this job."
            )
