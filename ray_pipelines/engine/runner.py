"""The executor: items in, results or `RowError`s out, in input order.

    items ─► windows of preprocessed chunks ─► forwards of batches ─► postprocess each ─► results
             `windows.py`                      `forwards.py`

Used by the Ray worker, in this process (`spec.run`) and by the tests alike. An exception while an item is preprocessed
or postprocessed concerns that item alone; what one bad row can do to a batch is bounded in `forwards.py`. On a GPU, or
where the model leaves cores free, the next window is made in a thread while the device computes: preprocessing and
postprocessing never run at the same time, since tokenizers cannot be used from two threads.
"""

from __future__ import annotations

import copy
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from ray_pipelines.config import BatchConfig
from ray_pipelines.engine.counters import Counters
from ray_pipelines.engine.forwards import Forwards
from ray_pipelines.engine.precision import cheaper_setting
from ray_pipelines.engine.steps import Steps
from ray_pipelines.engine.tuning import BudgetStore
from ray_pipelines.engine.watch import Watch
from ray_pipelines.engine.windows import Item, Many, Window, Windows, exploded, prefetched
from ray_pipelines.errors import RowError, RowTimeout, Stage, attempt

__all__ = ["Runner"]

FIRST_BATCH_SIZE = 16
BATCHES_PER_WINDOW = 32
"""So many batches of sorted rows have less than 5 % of padding on natural texts."""


class Runner:
    """Runs items through the steps of one pipeline.

    Args:
        steps: The hosted pipeline's steps.
        batching: How chunks share a forward.
        store: Where the budget of batches is kept from one process to the next; None keeps it here only.

    Attributes:
        watch: Is told of each step before it is taken.
    """

    watch = Watch()

    def __init__(self, steps: Steps, batching: BatchConfig, store: BudgetStore | None = None) -> None:
        self.steps = steps
        dtype = str(getattr(steps.pipe, "dtype", "")).removeprefix("torch.")
        device = steps.pipe.device
        self.counters = Counters(device=device.type, dtype=dtype, cheaper=cheaper_setting(device))
        self._forwards = Forwards(steps, batching, self.counters, self._watched, store)
        # Items that wait to be called are not counted in bytes.
        window_rows = 1 if steps.has_own_call else batching.window_rows
        self._windows = Windows(window_rows, self._full_cost, self.counters)
        self._one_at_a_time = threading.Lock()

    def share_memory(self, num_processes: int) -> None:
        """Leaves to each of so many processes like this one on the machine its part of the memory that is free."""
        self._forwards.num_processes = num_processes

    def run(self, items: Iterable[Any]) -> Iterator[Any]:
        """One result or `RowError` per item, in input order.

        Args:
            items: What `Steps.preprocess` takes; a `RowError` among them is handed on.
        """
        windows = self._windows.of(items, self._chunks, self._many())
        if self._can_prefetch():
            windows = prefetched(windows)
        return self._stream(windows, self._finished)

    def outputs(self, items: Iterable[Sequence[Any] | RowError]) -> Iterator[Any]:
        """The model outputs of the chunks of each item, or its `RowError`, in input order: the forward step alone."""
        return self._stream(
            self._windows.of(items, lambda chunks, row: iter(chunks), None),
            lambda items: (item.outputs for item in items),
        )

    def preprocess(self, item: Any, row: int = 0) -> list[Any] | RowError:
        """All chunks of one item, or its `RowError`: the first step alone; `row` is its place among the items."""
        chunks = list(self.explode(item, row))
        return chunks[-1] if chunks and isinstance(chunks[-1], RowError) else chunks

    def preprocess_many(self, items: Sequence[Any]) -> list[Any]:
        """For each item its chunks, or None where it must be preprocessed by itself; as one step, where that is faster.

        What `explode` gives is the same.
        """
        many = self._many() if len(items) > 1 else None
        return [None] * len(items) if many is None else list(many.chunks(items, range(len(items))))

    def explode(self, item: Any, row: int = 0) -> Iterator[Any]:
        """The chunks of one item as they are made; the last is a `RowError` if there can be no more."""
        return iter([item]) if isinstance(item, RowError) else exploded(self._chunks, item, row, self.counters)

    def postprocess(self, outputs: Sequence[Any] | RowError, row: int = 0) -> Any:
        """The result of one item, or its `RowError`: the last step alone; `row` is its place among the items."""
        return outputs if isinstance(outputs, RowError) else self._postprocess(outputs, row)

    def with_parameters(self, parameters: Any, seed: int | None = None) -> Runner:
        """A runner of the same pipeline with other parameters of the task; what was learned of memory goes along."""
        runner = copy.copy(self)
        runner.steps = self.steps.with_parameters(parameters, seed)
        runner._forwards = self._forwards.with_steps(runner.steps)
        return runner

    @property
    def max_size(self) -> int:
        """How many chunks share a forward at most, by what is known so far."""
        return self._forwards.max_size

    def batch_size(self, cost: int) -> int:
        """How many chunks a forward has at best, by what is known so far.

        Args:
            cost: Of each, with the tokens that it may generate.
        """
        full_cost = self._forwards.full_cost
        if full_cost is None:
            return min(FIRST_BATCH_SIZE, self.max_size)
        return max(1, min(self.max_size, full_cost // max(1, cost)))

    def _watched(self, stage: Stage, rows: Sequence[int], step: Callable[[], Any]) -> Any:
        return self.watch.run(stage, rows, step)

    def _stream(self, windows: Iterator[Window], finish: Callable[[Sequence[Item]], Iterator[Any]]) -> Iterator[Any]:
        waiting: deque[Item] = deque()
        for window in windows:
            waiting.extend(window.started)
            self._forward(window)
            self.counters.num_truncated = self.steps.num_truncated
            done = []
            while waiting and waiting[0].is_finished:
                done.append(waiting.popleft())
            results = finish([item for item in done if item.first_error is None])
            for item in done:
                yield item.first_error or next(results)
                item.outputs = []

    def _forward(self, window: Window) -> None:
        """Forwards the chunks of a window and hands the outputs to their items."""
        entries = [entry for entry in window.entries if entry[0].error is None]
        made = self._forwards([chunk for *_, chunk in entries], [item.row for item, *_ in entries])
        for (item, index, _), output in zip(entries, made, strict=True):
            if isinstance(output, RowError):
                item.error = item.error or output
            else:
                item.outputs[index] = output
            item.num_done += 1

    def _finished(self, items: Sequence[Item]) -> Iterator[Any]:
        """The result of each item whose outputs are there, or its `RowError`."""
        for item, result in zip(items, self._postprocess_many(items), strict=True):
            yield result if result is not None else self._postprocess(item.outputs, item.row)

    def _postprocess_many(self, items: Sequence[Item]) -> Sequence[Any]:
        """The results that can be made together; None for each other."""
        if not self.steps.can_finish_many or len(items) < 2:
            return [None] * len(items)
        start_s = time.perf_counter()
        together = partial(self.steps.postprocess_many, [item.outputs for item in items])
        step = partial(self._watched, "postprocess", [item.row for item in items], together)
        with self._one_at_a_time:
            results = attempt("postprocess", step)
        self.counters.postprocess_s += time.perf_counter() - start_s
        return [None] * len(items) if isinstance(results, RowError) else results

    def _postprocess(self, outputs: Sequence[Any], row: int) -> Any:
        start_s = time.perf_counter()
        step = partial(self._watched, "postprocess", [row], lambda: self.steps.postprocess(outputs))
        with self._one_at_a_time:
            result = attempt("postprocess", step)
        self.counters.postprocess_s += time.perf_counter() - start_s
        return result

    def _chunks(self, item: Any, row: int) -> Iterator[Any]:
        """The chunks of an item as they are made, none of them while another thread postprocesses.

        Raises:
            RowTimeout: All chunks together take longer than a step may.
        """
        made = self.steps.preprocess(item)
        step = partial(self._watched, "preprocess", [row], partial(next, made, None))
        total_s = 0.0
        while True:
            with self._one_at_a_time:
                start_s = time.perf_counter()
                chunk = step()
                total_s += time.perf_counter() - start_s
            if chunk is None:
                return
            if self.watch.timeout_s is not None and total_s > self.watch.timeout_s:
                raise RowTimeout.after(self.watch.timeout_s)
            yield chunk

    def _many(self) -> Many | None:
        if self.steps.group_size == 1:
            return None

        def chunks(items: Sequence[Any], rows: Sequence[int]) -> Sequence[Any]:
            with self._one_at_a_time:
                step = partial(self._watched, "preprocess", rows, lambda: self.steps.preprocess_many(items))
                made = attempt("preprocess", step)
            return [None] * len(items) if isinstance(made, RowError) else made

        return Many(chunks, self.steps.group_size)

    def _full_cost(self) -> int | None:
        cost = self._forwards.full_cost
        return None if cost is None else BATCHES_PER_WINDOW * cost

    def _can_prefetch(self) -> bool:
        """Whether a thread that preprocesses takes nothing from the model, and from random numbers."""
        if self.steps.is_random or self.steps.is_generic:
            return False
        return self.steps.pipe.device.type != "cpu" or torch.get_num_threads() < _num_cores()


def _num_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
