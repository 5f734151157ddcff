"""The executor: items in, results or `RowError`s out, in input order.

    items ─► preprocess each ─► plan batches ─► forward ─► postprocess each ─► results
             errors per item    of a window     halved, bisected

Used by the Ray worker, in this process (`spec.run`) and by the tests alike. Items are walked lazily: at most
`window_rows` chunks are in memory besides the outputs of items that still wait for theirs.

What one bad row can do is bounded here:

- an exception while an item is preprocessed or postprocessed concerns that item;
- a batch that does not fit the device is halved, and the smaller size is remembered; a single chunk that does not fit
  is `RowTooLarge`;
- a batch that fails otherwise is bisected until the guilty chunk stands alone. If every chunk of it succeeds by itself,
  this model cannot be batched (no padding token, say), and from then on is not;
- a batch must not change results: the first one is compared with one of its chunks alone, and where they differ (a
  state that rows share) rows run one by one. So is the first padded batch, with its shortest chunk: where they differ
  (convolutions across tokens, masks that a model ignores) only chunks of equal length share a batch.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ray_pipelines.config import BatchConfig
from ray_pipelines.engine.batching import (
    Padding,
    collate,
    cost,
    cost_unit,
    num_tokens,
    plan_batches,
    signature,
    split_outputs,
)
from ray_pipelines.engine.closeness import are_close
from ray_pipelines.engine.counters import Counters
from ray_pipelines.engine.memory import free_memory, is_out_of_memory, raise_if_device_lost
from ray_pipelines.engine.steps import Steps
from ray_pipelines.engine.watch import Watch
from ray_pipelines.errors import RowError, RowTimeout, RowTooLarge, attempt

__all__ = ["Runner"]

logger = logging.getLogger(__name__)

CPU_TOKENS = 1024
"""Measured with a 22M encoder on two cores: 9 % faster than one row at a time, where batches of 32 are 8 % slower."""


@dataclass
class _Item:
    """An item on its way: its place among the items, and the outputs of its chunks so far, or its first error."""

    row: int = 0
    outputs: list[Any] = field(default_factory=list)
    num_missing: int = 0
    is_complete: bool = False
    error: RowError | None = None
    preprocess_error: RowError | None = None


class Runner:
    """Runs items through the steps of one pipeline.

    Args:
        steps: The hosted pipeline's steps.
        batching: How chunks share a forward.

    Attributes:
        watch: Is told of each step before it is taken.
    """

    watch = Watch()

    def __init__(self, steps: Steps, batching: BatchConfig) -> None:
        self.steps = steps
        dtype = str(getattr(steps.pipe, "dtype", "")).removeprefix("torch.")
        self.counters = Counters(device=steps.pipe.device.type, dtype=dtype)
        self._window = batching.window_rows
        self._max_size = batching.max_size if steps.task.batched and not steps.is_random else 1
        self._budget = batching.budget
        self._padding = steps.padding
        self._padding_is_checked = False
        self._batching_is_checked = False
        self._rows: dict[int, int] = {}

    def run(self, items: Iterable[Any]) -> Iterator[Any]:
        """One result or `RowError` per item, in input order.

        Args:
            items: What `Steps.preprocess` takes; a `RowError` among them is handed on.
        """
        return self._stream(items, self.steps.preprocess, lambda state: self._postprocess(state.outputs, state.row))

    def outputs(self, items: Iterable[Sequence[Any] | RowError]) -> Iterator[Any]:
        """The model outputs of the chunks of each item, or its `RowError`, in input order: the forward step alone."""
        return self._stream(items, iter, lambda state: state.outputs)

    def preprocess(self, item: Any, row: int = 0) -> list[Any] | RowError:
        """All chunks of one item, or its `RowError`: the first step alone; `row` is its place among the items."""
        chunks = list(self.explode(item, row))
        return chunks[-1] if chunks and isinstance(chunks[-1], RowError) else chunks

    def explode(self, item: Any, row: int = 0) -> Iterator[Any]:
        """The chunks of one item as they are made; the last is a `RowError` if there can be no more."""
        return iter([item]) if isinstance(item, RowError) else self._exploded(self.steps.preprocess, item, row)

    def postprocess(self, outputs: Sequence[Any] | RowError, row: int = 0) -> Any:
        """The result of one item, or its `RowError`: the last step alone; `row` is its place among the items."""
        return outputs if isinstance(outputs, RowError) else self._postprocess(outputs, row)

    # --- items and their chunks

    def _stream(self, items: Iterable[Any], explode: Any, finish: Any) -> Iterator[Any]:
        waiting: deque[_Item] = deque()
        window: list[tuple[_Item, Any]] = []
        for row, item in enumerate(self._timed(items)):
            state = _Item(row)
            waiting.append(state)
            if isinstance(item, RowError):
                state.error = item
            else:
                for chunk in self._exploded(explode, item, row):
                    if isinstance(chunk, RowError):
                        # The chunks before it still run: the first that fails says why, whatever shares their window.
                        state.preprocess_error = chunk
                        break
                    state.outputs.append(None)
                    state.num_missing += 1
                    window.append((state, (len(state.outputs) - 1, chunk)))
                    if len(window) >= self._window:
                        self._flush(window)
                        if state.error is not None:
                            break
            state.is_complete = True
            yield from self._finished(waiting, finish)
        self._flush(window)
        yield from self._finished(waiting, finish)

    def _timed(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items; what it takes to get them (to decode a row's media, mostly) is counted."""
        iterator = iter(items)
        while True:
            start_s = time.perf_counter()
            item = next(iterator, _END)
            self.counters.decode_s += time.perf_counter() - start_s
            if item is _END:
                return
            yield item

    def _exploded(self, explode: Any, item: Any, row: int) -> Iterator[Any]:
        """The chunks of an item as they are made; an error stands in the place of the first that cannot be."""
        chunks: Iterator[Any] | RowError = attempt("preprocess", lambda: iter(explode(item)))
        if isinstance(chunks, RowError):
            yield chunks
            return
        step = partial(self.watch.run, "preprocess", [row], partial(next, chunks, _END))
        total_s = 0.0
        while True:
            start_s = time.perf_counter()
            chunk = attempt("preprocess", step)
            passed_s = time.perf_counter() - start_s
            self.counters.preprocess_s += passed_s
            total_s += passed_s
            if self.watch.timeout_s is not None and total_s > self.watch.timeout_s and not isinstance(chunk, RowError):
                chunk = RowError.from_exception("preprocess", RowTimeout.after(self.watch.timeout_s))
            if chunk is _END:
                return
            yield chunk
            if isinstance(chunk, RowError):
                return

    def _flush(self, window: list[tuple[_Item, Any]]) -> None:
        """Forward the chunks of the window and hand the outputs to their items."""
        entries = [(state, index, chunk) for state, (index, chunk) in window if state.error is None]
        window.clear()
        self._rows = {id(chunk): state.row for state, _, chunk in entries}
        for (state, index, _), output in zip(entries, self._forward([chunk for *_, chunk in entries]), strict=True):
            if isinstance(output, RowError):
                state.error = state.error or output
            else:
                state.outputs[index] = output
            state.num_missing -= 1

    def _finished(self, waiting: deque[_Item], finish: Any) -> Iterator[Any]:
        while waiting and waiting[0].is_complete and (waiting[0].error or not waiting[0].num_missing):
            state = waiting.popleft()
            error = state.error or state.preprocess_error
            yield error if error is not None else finish(state)

    def _postprocess(self, outputs: Sequence[Any], row: int) -> Any:
        start_s = time.perf_counter()
        step = partial(self.watch.run, "postprocess", [row], lambda: self.steps.postprocess(outputs))
        result = attempt("postprocess", step)
        self.counters.postprocess_s += time.perf_counter() - start_s
        return result

    # --- chunks and their forwards

    def _forward(self, chunks: Sequence[Any]) -> list[Any]:
        """The outputs of each chunk, or its `RowError`."""
        start_s, warmup_s, num_graphs = time.perf_counter(), self.steps.warmup_s, self.steps.num_graphs
        outputs: list[Any] = [None] * len(chunks)
        remaining = list(range(len(chunks)))
        while remaining:
            padding = self._padding
            done: set[int] = set()
            for batch in self._plan([chunks[index] for index in remaining]):
                indices = [remaining[position] for position in batch]
                made = self._forward_or_split([chunks[index] for index in indices])
                for index, output in zip(indices, made, strict=True):
                    outputs[index] = output
                done.update(indices)
                if self._padding is not padding:
                    break
            remaining = [index for index in remaining if index not in done]
        warmup_s = self.steps.warmup_s - warmup_s
        self.counters.warmup_s += warmup_s
        self.counters.num_graphs += self.steps.num_graphs - num_graphs
        self.counters.forward_s += time.perf_counter() - start_s - warmup_s
        return outputs

    def _plan(self, chunks: Sequence[Any]) -> list[list[int]]:
        if self._max_size == 1:
            return [[index] for index in range(len(chunks))]
        return plan_batches(
            [cost(chunk) for chunk in chunks],
            max_size=self._max_size,
            budget=self._budget or self._default_budget(chunks),
            groups=[signature(chunk, self._padding) for chunk in chunks],
        )

    def _default_budget(self, chunks: Sequence[Any]) -> int | None:
        """On a CPU, the number of tokens beyond which a batch only leaves its caches."""
        if self.steps.pipe.device.type != "cpu":
            return None
        return CPU_TOKENS if all("input_ids" in chunk for chunk in chunks) else None

    def _forward_or_split(self, chunks: Sequence[Any]) -> list[Any]:
        """The outputs of one batch; of its parts where it does not fit or fails."""
        if len(chunks) > self._max_size:
            size = self._max_size
            parts = [chunks[start : start + size] for start in range(0, len(chunks), size)]
            return [output for part in parts for output in self._forward_or_split(part)]
        made = self._forward_once(chunks)
        if not isinstance(made, RowError):
            return made
        raise_if_device_lost(made.__cause__)
        does_not_fit = is_out_of_memory(made.__cause__)
        if does_not_fit:
            self.counters.num_out_of_memory += 1
            free_memory(self.steps.pipe.device)
        if len(chunks) == 1:
            too_large = RowTooLarge("row: does not fit into the device's memory by itself.")
            return [RowError.from_exception("forward", too_large) if does_not_fit else made]
        if isinstance(made.__cause__, RowTimeout):
            # Halves would take the guilty row's time again and again.
            return [output for chunk in chunks for output in self._forward_or_split([chunk])]
        half = (len(chunks) + 1) // 2
        if does_not_fit:
            self._max_size = min(self._max_size, half)
            logger.warning("A batch of %d did not fit into memory; batches have %d at most now.", len(chunks), half)
        outputs = [*self._forward_or_split(chunks[:half]), *self._forward_or_split(chunks[half:])]
        if not does_not_fit and len(chunks) == 2 and not any(isinstance(output, RowError) for output in outputs):
            self._max_size = 1
            logger.warning("This model cannot be batched (%s); its rows run one by one.", made.message)
        return outputs

    def _forward_once(self, chunks: Sequence[Any]) -> list[Any] | RowError:
        self.counters.num_forwards += 1
        if len(chunks) == 1:
            output: Any = self._watched_forward(chunks, lambda: self.steps.forward(chunks[0]))
            self._count(chunks)
            return output if isinstance(output, RowError) else [output]
        outputs: list[Any] | RowError = self._watched_forward(
            chunks, lambda: self._forward_batch(chunks, self._padding)
        )
        if isinstance(outputs, RowError):
            return outputs
        if not self._is_as_alone(chunks, outputs):
            return [output for chunk in chunks for output in self._forward_or_split([chunk])]
        self._count(chunks)
        return outputs

    def _is_as_alone(self, chunks: Sequence[Any], outputs: Sequence[Any]) -> bool:
        """Whether the shortest chunk has the same outputs alone; asked of the first batch, and the first padded one."""
        is_padded = len({num_tokens(chunk) for chunk in chunks}) > 1
        if self._batching_is_checked and (self._padding_is_checked or not is_padded):
            return True
        shortest = min(range(len(chunks)), key=lambda index: num_tokens(chunks[index]) or 0)
        alone = self._watched_forward([chunks[shortest]], lambda: self.steps.forward(chunks[shortest]))
        is_same = isinstance(alone, RowError) or are_close(alone, outputs[shortest], self.steps.is_exact)
        self._padding_is_checked = self._padding_is_checked or is_padded
        self._batching_is_checked = is_same or not is_padded
        if is_padded and not is_same:
            self._padding = Padding({})
            logger.warning("Padding changes this model's results; only rows of equal length share a batch.")
        elif not is_same:
            self._max_size = 1
            logger.warning("A batch changes this model's results; its rows run one by one.")
        return is_same

    def _watched_forward(self, chunks: Sequence[Any], function: Callable[[], Any]) -> Any:
        rows = sorted({self._rows[id(chunk)] for chunk in chunks})
        return attempt("forward", partial(self.watch.run, "forward", rows, function))

    def _forward_batch(self, chunks: Sequence[Any], padding: Padding) -> list[Any]:
        outputs = self.steps.forward(collate(chunks, padding))
        return split_outputs(outputs, [num_tokens(chunk) for chunk in chunks], self.steps.is_sequence, padding)

    def _count(self, chunks: Sequence[Any]) -> None:
        costs = [cost(chunk) for chunk in chunks]
        self.counters.cost_unit = self.counters.cost_unit or cost_unit(chunks[0])
        self.counters.num_chunks += len(chunks)
        self.counters.cost += sum(costs)
        self.counters.padded_cost += max(costs) * len(costs)


_END = object()
