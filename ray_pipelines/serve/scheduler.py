"""Two lanes in front of one device: online requests first, batch jobs in slices between them.

    request ─► prepare (CPU thread) ─► online lane ─┐
                                                    ├─► device thread ─► finish (CPU thread) ─► answer
    block   ─► prepare (CPU thread) ─► batch lane ──┘

A request goes from thread to thread by itself; the event loop, which reads and writes for all, has it back as a result.

A forward is formed when the device is free, from what waits at that moment: entries of equal parameters and of about
the same cost as the oldest. Nobody waits for a batch to fill, so a lone request has no delay added; under load,
batches grow by themselves. Entries are chunks, so a long recording does not hold up others for longer than one forward.

The batch lane has the device when no online entry waits. Its slices are as large as the executor's batches while
nobody is online (or as several, up to `LONGEST_S`), and else as large as `slice_budget_ms` allows, or the time
of requests' own forwards, by what slices have cost lately. Once it has waited for `STARVING_S`, it gets a slice anyway.
What cannot be cut is a single chunk's forward: a generation holds the device until it is done.

Why not `@serve.batch`: it forms batches before it can run them, fails all for one, and knows neither cost nor lanes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

from ray_pipelines.engine.counters import Counters
from ray_pipelines.engine.runner import Runner
from ray_pipelines.errors import RowError
from ray_pipelines.media.limits import MediaLimits
from ray_pipelines.serve.config import ServeConfig
from ray_pipelines.serve.cpu import CpuThread, Lane, current_caller
from ray_pipelines.serve.device import DeviceThread, SchedulerStats
from ray_pipelines.serve.lanes import Entry, Job
from ray_pipelines.serve.refusals import Refused, late, refusal_of
from ray_pipelines.serve.stopping import abandon_when

__all__ = ["Scheduler"]

T = TypeVar("T")
ONLINE_FOR_S = 1.0
"""How long after the last online request batch slices stay short."""
MAX_VARIANTS = 64


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
        self.num_waiting = 0
        self._config = config
        self._last_online_s = float("-inf")
        self._variants: OrderedDict[Any, Runner] = OrderedDict()
        self._cpu = CpuThread()
        self._device = DeviceThread(config.slice_budget_ms / 1000, lambda: self.is_online, self.stats)
        abandon_when(lambda: self._device.is_abandoned, runner.steps.pipe.model)

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

    def admit(self) -> None:
        """Looks whether there is room for one more input, before anything is done for it.

        Raises:
            Refused: There is none (429).
        """
        wait_s = self._device.queue_s
        if self.num_waiting >= self._config.max_queue_requests or wait_s > self._config.max_queue_s:
            self.stats.num_refused += 1
            raise Refused(429, "The endpoint is busy; try again later.", retry_after_s=max(1.0, wait_s / 2))

    async def run(self, runner: Runner, prepare: Callable[[], Any]) -> Any:
        """The result of one online input.

        Args:
            runner: Of `variant`.
            prepare: Gives the chunks, or a `RowError`; called in the CPU thread.

        Raises:
            Refused: No room (429), too late (504), or the input cannot be processed.
        """
        loop, timeout_s, caller = asyncio.get_running_loop(), self._config.timeout_s, current_caller()

        def put(step: Callable[[], Any], done: Callable[[Any], None]) -> None:
            self._cpu.put(caller, step, done, lambda: job.is_dropped)

        def begin() -> Any:
            chunks = prepare()
            return chunks if isinstance(chunks, RowError) else self._device.put_chunks("online", job, runner, chunks)

        def begun(made: RowError | None) -> None:
            if made is not None:
                job.resolve(made)

        def finish(outputs: Any) -> None:
            put(lambda: runner.postprocess(outputs), job.resolve)

        job = Job(loop, time.monotonic() + timeout_s, finish=finish)
        with self._waiting_for(job):
            timer = loop.call_later(timeout_s, job.resolve, late(timeout_s))
            try:
                if runner.steps.is_random:
                    # Random numbers are the process's: preprocessing under a seed belongs to the thread that forwards.
                    self._enter_call(job, lambda: next(iter(runner.outputs([prepare()]))), runner.steps.extra_cost)
                else:
                    put(begin, begun)
                result = await job.future
            finally:
                timer.cancel()
        if isinstance(result, Refused):
            raise result
        if isinstance(result, RowError):
            raise refusal_of(result)
        self.stats.num_requests += 1
        return result

    async def call(self, function: Callable[[], Any], cost: int) -> Any:
        """The result of `function()`, run on the device thread as an online entry of its own: a streamed generation.

        Args:
            function: What is called.
            cost: As much as chunks of this cost, by which requests are admitted.

        Raises:
            Refused: No room (429).
        """
        job = Job(asyncio.get_running_loop(), float("inf"))
        with self._waiting_for(job):
            self._enter_call(job, function, cost)
            return await job.future

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
        self._device.put_chunks("batch", job, runner, chunks, is_complete)

    def enter_batch_call(self, job: Job, function: Callable[[], Any]) -> None:
        """Puts a call into the batch lane, which runs on the device thread by itself and resolves `job`."""
        self._device.put("batch", [Entry(job, 0, 0, call=function)])

    def queue_depth(self, lane: Lane) -> int:
        """Chunks that wait in a lane."""
        return self._device.depth(lane)

    @property
    def is_online(self) -> bool:
        """Whether there was a request just now, so that slices of batch jobs are kept short."""
        return self.num_waiting > 0 or time.monotonic() - self._last_online_s < ONLINE_FOR_S

    def is_wedged(self, after_s: float) -> bool:
        """Whether one forward, or one step on the CPU, has not come back for longer than `after_s`."""
        return max(self._device.busy_s, self._cpu.busy_s) > after_s

    def close(self) -> None:
        """Ends the threads; what waits is not answered any more."""
        self._device.close()
        self._cpu.close()

    # --- on the way to the device

    @contextlib.contextmanager
    def _waiting_for(self, job: Job) -> Iterator[None]:
        """Admits a job of a request, which waits for it in the block; after it nobody does any more."""
        self.admit()
        self._last_online_s = time.monotonic()
        self.num_waiting += 1
        try:
            yield
        finally:
            job.is_dropped = True
            job.finish = None  # It refers to the job: outputs would stay until the garbage is collected.
            self.num_waiting -= 1

    def _enter_call(self, job: Job, function: Callable[[], Any], cost: int) -> None:
        self._device.put("online", [Entry(job, 0, cost, cost, call=function)])
