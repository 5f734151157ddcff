"""Chunks to their outputs: which share a forward, and what happens to those that do not fit or fail.

    chunks ─► groups of like signature ─► sorted by cost, cut by budget ─► forward ─► outputs in order
                                          halved if too large, searched if it fails

What one bad row can do is bounded here:

- a batch that does not fit into memory is halved, and the smaller budget holds for the life of the worker; a single
  chunk that does not fit, tried again with all memory freed, is `RowTooLarge`;
- a batch that fails otherwise is bisected until the guilty chunk stands alone. The search is bounded: after
  `2 log2(n)` failed parts of a batch of n the rest of it runs one by one, and while most rows fail, batches are not
  even tried. If every chunk succeeds by itself, this model cannot be batched (no padding token, say), and from then on
  is not;
- padding must not save a row that is too short for its model (CANINE): a chunk of few tokens, fewer than any that has
  run by itself, is tried by itself;
- a batch must not change results: the first one is compared with one of its chunks alone, and where they differ (a
  state that rows share) rows run one by one. So are the first padded batches, with chunks of several lengths: where
  they differ (convolutions across tokens, masks that a model ignores, sometimes at certain lengths only) only chunks of
  equal length share a batch.
"""

from __future__ import annotations

import copy
import logging
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
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
    num_values,
    plan_batches,
    signature,
    split_outputs,
)
from ray_pipelines.engine.closeness import are_close
from ray_pipelines.engine.counters import Counters
from ray_pipelines.engine.memory import (
    available_bytes,
    free_memory,
    is_out_of_memory,
    limited_memory,
    raise_if_device_lost,
)
from ray_pipelines.engine.steps import Steps
from ray_pipelines.engine.tuning import BudgetStore, BudgetTuner
from ray_pipelines.errors import RowError, RowTimeout, RowTooLarge, Stage, attempt

__all__ = ["Forwards"]

logger = logging.getLogger(__name__)

CPU_MAX_SIZE, GPU_MAX_SIZE = 256, 1024
MEMORY_SHARE = 0.9
MEMORY_CHECK_S = 1.0
FAILING_SHARE = 0.5
SHORT_TOKENS = 16
"""A model that takes inputs of some length only takes those of so many tokens."""
CHECKED_BATCHES, CHECKED_CHUNKS = 3, 4
"""So many padded batches are compared with so many of their chunks alone: models that pool tokens by fours, say, are
wrong at every fourth length only. Where tokens are generated, which takes long, it is one of one."""


@dataclass(frozen=True)
class _Start:
    """What a batch has before anything is measured.

    Attributes:
        tokens: Of texts.
        values: Pixels, samples or other numbers of anything else: beyond, a batch gains nothing by being larger.
        rows: Of anything else, at most.
        generated_rows: Where tokens are generated. Each is a forward by itself, which costs hardly more for many rows.
    """

    tokens: int
    values: int
    rows: int
    generated_rows: int


CPU_START = _Start(tokens=1024, values=1 << 20, rows=64, generated_rows=32)
GPU_START = _Start(tokens=16384, values=1 << 23, rows=256, generated_rows=64)
LEAST_GENERATED_ROWS, LEAST_GENERATED_SHARE = 8, 4
"""Where tokens are generated, a batch starts with so many rows however large their images are, and no budget below this
part of the start is tried."""
MOST_VALUES_PER_TOKEN = 8
"""Token ids, masks, boxes of words: a chunk with more values than that has an image or a recording beside its text."""


@dataclass
class _Search:
    """How many more parts of a failed batch may fail before the rest of it runs one by one."""

    allowed: int


@dataclass
class _Learned:
    """What is known of the device, whatever the parameters of the task.

    Attributes:
        found: The budget that was kept by an earlier process.
        tuners: By the new tokens of a chunk, which are part of its cost.
        memory_budget: Cost of the largest batch that fits into memory, once one did not.
    """

    found: int | None = None
    tuners: dict[int, BudgetTuner] = field(default_factory=dict)
    memory_budget: int | None = None


class Forwards:
    """The forwards of one pipeline.

    Args:
        steps: The hosted pipeline's steps.
        batching: How chunks share a forward.
        counters: What is counted here.
        watched: Takes a step of some rows, and keeps its time.
        store: Where the budget that was found is kept; None keeps it for this object only.
    """

    def __init__(
        self,
        steps: Steps,
        batching: BatchConfig,
        counters: Counters,
        watched: Callable[[Stage, Sequence[int], Callable[[], Any]], Any],
        store: BudgetStore | None = None,
    ) -> None:
        self._steps = steps
        self._counters = counters
        self._watched = watched
        self._rows: dict[int, int] = {}
        self._is_cpu = steps.pipe.device.type == "cpu"
        most = batching.max_size or (CPU_MAX_SIZE if self._is_cpu else GPU_MAX_SIZE)
        self._max_size = most if steps.can_batch else 1
        self._budget = batching.budget if isinstance(batching.budget, int) else None
        self._is_tuned = batching.budget == "auto"
        self._store = store
        self._is_scarce = False
        self._learned = _Learned(store.load() if store is not None and self._is_tuned else None)
        self._memory_bytes = batching.max_memory_bytes
        self._memory_checked_s = float("-inf")
        self.num_processes = 1
        self._free_bytes: int | None = None
        self._padding = steps.padding
        self._checked_chunks = 1 if steps.extra_cost else CHECKED_CHUNKS
        self._padding_checks = 1 if steps.extra_cost else CHECKED_BATCHES
        self._batching_is_checked = False
        self._failing = 0.0
        self._shortest = float("inf")
        counters.max_size = self._max_size

    def __call__(self, chunks: Sequence[Any], rows: Sequence[int]) -> list[Any]:
        """The outputs of each chunk, or its `RowError`, in order.

        Args:
            chunks: Model inputs.
            rows: The row of each, by its place among the items.
        """
        self._rows = {id(chunk): row for chunk, row in zip(chunks, rows, strict=True)}
        start_s, warmup_s, num_graphs = time.perf_counter(), self._steps.warmup_s, self._steps.num_graphs
        outputs: list[Any] = [None] * len(chunks)
        remaining = list(range(len(chunks)))
        while remaining:
            padding = self._padding
            done: set[int] = set()
            for batch, budget, is_rest in self._plan([chunks[index] for index in remaining]):
                indices = [remaining[position] for position in batch]
                made = self._timed([chunks[index] for index in indices], budget, is_rest)
                for index, output in zip(indices, made, strict=True):
                    outputs[index] = output
                done.update(indices)
                if self._padding is not padding:
                    break
            remaining = [index for index in remaining if index not in done]
        warmup_s = self._steps.warmup_s - warmup_s
        self._counters.warmup_s += warmup_s
        self._counters.num_graphs += self._steps.num_graphs - num_graphs
        self._counters.forward_s += time.perf_counter() - start_s - warmup_s
        return outputs

    def with_steps(self, steps: Steps) -> Forwards:
        """The same for one of many callers, with parameters of its own; what is learned of the device is shared."""
        forwards = copy.copy(self)
        forwards._steps = steps
        forwards._is_scarce = True
        if not steps.can_batch:
            forwards._max_size = 1
        return forwards

    @property
    def _tuner(self) -> BudgetTuner | None:
        return self._learned.tuners.get(self._steps.extra_cost)

    @property
    def max_size(self) -> int:
        """Chunks of one forward at most."""
        return self._max_size

    @property
    def full_cost(self) -> int | None:
        """The cost of a batch, or None where nothing limits it."""
        return self._tuner.best if self._tuner is not None else self._budget

    # --- which chunks, and how many

    def _plan(self, chunks: Sequence[Any]) -> list[tuple[list[int], int | None, bool]]:
        """Batches of positions, each with the budget that it was cut to, and whether it is the rest of its group."""
        if self._max_size == 1:
            return [([index], None, False) for index in range(len(chunks))]
        costs = [cost(chunk) + self._steps.extra_cost for chunk in chunks]
        groups = [signature(chunk, self._padding) for chunk in chunks]
        tuner = self._tuner
        if self._is_tuned and tuner is None:
            tuner = self._learned.tuners[self._steps.extra_cost] = self._new_tuner(chunks, costs)
        if tuner is None:
            batches = plan_batches(costs, max_size=self._max_size, budget=self._budget, groups=groups)
            return [(batch, None, False) for batch in batches]
        budgets: list[int] = []
        ladder = tuner

        def following() -> int:
            budgets.append(ladder.next())
            return budgets[-1]

        batches = plan_batches(costs, max_size=self._max_size, budget=following, groups=groups)
        return list(zip(batches, budgets, _are_rests(batches, groups), strict=True))

    def _new_tuner(self, chunks: Sequence[Any], costs: Sequence[int]) -> BudgetTuner:
        """Starts from the budget that was found before, or from one that is good on most devices."""
        start = CPU_START if self._is_cpu else GPU_START
        longest, values = max(costs), max(map(num_values, chunks))
        rows = min(start.rows, max(1, start.values // max(1, values)))
        if self._steps.extra_cost:
            budget = min(start.generated_rows, max(rows, LEAST_GENERATED_ROWS)) * longest
            return BudgetTuner(budget, self._learned.found, least=budget // LEAST_GENERATED_SHARE)
        is_text = cost_unit(chunks[0]) == "tokens" and values <= MOST_VALUES_PER_TOKEN * longest
        return BudgetTuner(start.tokens if is_text else rows * longest, self._learned.found, least=min(costs))

    def _timed(self, chunks: Sequence[Any], budget: int | None, is_rest: bool) -> list[Any]:
        """The outputs of one batch; what it took is noted by the tuner."""
        tuner = self._tuner
        if tuner is None or budget is None:
            return self._forward_or_split(chunks)
        num_forwards, warmup_s, start_s = self._counters.num_forwards, self._steps.warmup_s, time.perf_counter()
        made = self._forward_or_split(chunks)
        if self._counters.num_forwards == num_forwards + 1 and self._steps.warmup_s == warmup_s:
            costs = [cost(chunk) + self._steps.extra_cost for chunk in chunks]
            was_settled, longest = tuner.is_settled, max(costs)
            seconds = time.perf_counter() - start_s
            tuner.note(budget, sum(costs), longest * len(costs), longest, seconds, self._is_scarce or is_rest)
            if tuner.is_settled and not was_settled:
                logger.info("Batches have a budget of %d %s now.", tuner.best, self._counters.cost_unit)
                if self._store is not None:
                    self._store.save(tuner.best)
        self._counters.budget = tuner.best
        return made

    # --- one batch

    def _forward_or_split(self, chunks: Sequence[Any]) -> list[Any]:
        """The outputs of one batch; of its parts where it is too large or fails."""
        size = self._largest_size(chunks)
        if len(chunks) > size:
            parts = [chunks[start : start + size] for start in range(0, len(chunks), size)]
            return [output for part in parts for output in self._forward_or_split(part)]
        if len(chunks) > 1 and self._failing > FAILING_SHARE:
            return self._singly(chunks)
        made = self._forward_once(chunks)
        if not isinstance(made, RowError):
            self._note_failing(made)
            return made
        if self._does_not_fit(made):
            return self._halved(chunks)
        if len(chunks) == 1:
            return [made]
        if isinstance(made.__cause__, RowTimeout):
            # Halves would take the guilty row's time again and again.
            return self._singly(chunks)
        self._counters.num_failed_batches += 1
        num_forwards = self._counters.num_forwards
        outputs = self._searched(chunks, made, _Search(2 * (len(chunks) - 1).bit_length()))
        self._counters.num_extra_forwards += self._counters.num_forwards - num_forwards
        self._note_failing(outputs)
        return outputs

    def _largest_size(self, chunks: Sequence[Any]) -> int:
        budget = self._learned.memory_budget
        if budget is None:
            return self._max_size
        return max(1, min(self._max_size, budget // max(cost(chunk) for chunk in chunks)))

    def _does_not_fit(self, made: RowError) -> bool:
        raise_if_device_lost(made.__cause__)
        return is_out_of_memory(made.__cause__)

    def _halved(self, chunks: Sequence[Any]) -> list[Any]:
        """The outputs of a batch that did not fit into memory, from batches that are smaller from now on."""
        self._counters.num_out_of_memory += 1
        free_memory(self._steps.pipe.device)
        if len(chunks) == 1:
            made = self._forward_once(chunks)
            if isinstance(made, RowError) and self._does_not_fit(made):
                too_large = RowTooLarge("row: does not fit into the device's memory by itself.")
                return [RowError.from_exception("forward", too_large)]
            return [made] if isinstance(made, RowError) else made
        half = (len(chunks) + 1) // 2
        longest = max(cost(chunk) for chunk in chunks)
        self._learned.memory_budget = min(self._learned.memory_budget or half * longest, half * longest)
        if self._tuner is not None:
            self._tuner.limit(half * (longest + self._steps.extra_cost))
        logger.warning(
            "A batch of %d did not fit into memory; batches cost %d %s at most now.",
            len(chunks),
            self._learned.memory_budget,
            cost_unit(chunks[0]),
        )
        return [*self._forward_or_split(chunks[:half]), *self._forward_or_split(chunks[half:])]

    def _searched(self, chunks: Sequence[Any], failure: RowError, search: _Search) -> list[Any]:
        """The outputs of a batch that failed, from parts of it, until each guilty chunk stands alone."""
        size = (len(chunks) + 1) // 2 if search.allowed > 0 else 1
        outputs: list[Any] = []
        for start in range(0, len(chunks), size):
            part = chunks[start : start + size]
            if len(part) > 1 and self._max_size == 1:
                outputs += [output for chunk in part for output in self._forward_or_split([chunk])]
                continue
            made = self._forward_once(part)
            if not isinstance(made, RowError):
                outputs += made
            elif self._does_not_fit(made):
                outputs += self._halved(part)
            elif len(part) == 1:
                outputs.append(made)
            else:
                search.allowed -= 1
                outputs += self._searched(part, made, search)
        if len(chunks) == 2 and not any(isinstance(output, RowError) for output in outputs):
            self._max_size = self._counters.max_size = 1
            logger.warning("This model cannot be batched (%s); its rows run one by one.", failure.message)
        return outputs

    def _singly(self, chunks: Sequence[Any]) -> list[Any]:
        """The outputs of a batch row by row."""
        outputs = [output for chunk in chunks for output in self._forward_or_split([chunk])]
        self._counters.num_extra_forwards += len(chunks) - 1
        return outputs

    def _note_failing(self, outputs: Sequence[Any]) -> None:
        """Keeps a running share of the rows that fail."""
        for output in outputs:
            self._failing += ((1.0 if isinstance(output, RowError) else 0.0) - self._failing) / 32

    def _forward_once(self, chunks: Sequence[Any]) -> list[Any] | RowError:
        self._counters.num_forwards += 1
        with limited_memory(self._allowed_bytes()):
            if len(chunks) == 1:
                output: Any = self._step(chunks, lambda: self._steps.forward(chunks[0]))
                outputs: list[Any] | RowError = output if isinstance(output, RowError) else [output]
            else:
                outputs = self._step(chunks, lambda: self._forward_batch(chunks, self._padding))
        if isinstance(outputs, RowError):
            return outputs
        if len(chunks) > 1 and not self._is_as_alone(chunks, outputs):
            return [output for chunk in chunks for output in self._forward_or_split([chunk])]
        self._count(chunks)
        if len(chunks) == 1:
            self._note_length(chunks[0])
            return outputs
        return self._without_too_short(chunks, outputs)

    def _step(self, chunks: Sequence[Any], function: Callable[[], Any]) -> Any:
        rows = sorted({self._rows[id(chunk)] for chunk in chunks})
        return attempt("forward", partial(self._watched, "forward", rows, function))

    def _allowed_bytes(self) -> int | None:
        """What a forward may allocate on a CPU: what the user said, or most of what is free."""
        if not self._is_cpu or self._memory_bytes is not None:
            return self._memory_bytes if self._is_cpu else None
        if time.monotonic() - self._memory_checked_s > MEMORY_CHECK_S:
            self._memory_checked_s = time.monotonic()
            free = available_bytes()
            self._free_bytes = int(MEMORY_SHARE * free / self.num_processes) if free is not None else None
        return self._free_bytes

    def _is_as_alone(self, chunks: Sequence[Any], outputs: Sequence[Any]) -> bool:
        """Whether chunks have the same outputs alone; asked of the first batch, and of the first padded ones."""
        is_padded = len({num_tokens(chunk) for chunk in chunks}) > 1
        checks_padding = is_padded and self._padding_checks > 0
        # Pipelines may run chunks of several lengths apart, so only two of one length show what a batch changes.
        twin = None if self._batching_is_checked else _first_of_equal_length(chunks)
        if twin is None and not checks_padding:
            return True
        some = {*(_some_lengths(chunks, self._checked_chunks) if checks_padding else ())}
        some |= {twin} if twin is not None else set()
        is_same = all(self._has_same_alone(chunks[index], outputs[index]) for index in sorted(some))
        self._padding_checks -= checks_padding
        self._batching_is_checked = not is_padded or (is_same and (twin is not None or self._batching_is_checked))
        if is_padded and not is_same:
            self._padding = Padding({})
            logger.warning("Padding changes this model's results; only rows of equal length share a batch.")
        elif not is_same:
            self._max_size = self._counters.max_size = 1
            logger.warning("A batch changes this model's results; its rows run one by one.")
        return is_same

    def _has_same_alone(self, chunk: Any, output: Any) -> bool:
        alone = self._step([chunk], lambda: self._steps.forward(chunk))
        if isinstance(alone, RowError):
            return True
        self._note_length(chunk)
        return are_close(alone, output, self._steps.is_exact)

    def _without_too_short(self, chunks: Sequence[Any], outputs: Sequence[Any]) -> list[Any]:
        """The outputs, with an error for each chunk that is too short for the model but for its padding.

        Only chunks of fewer tokens than any that has run by itself are asked, from the shortest to the first that runs.
        """
        if self._steps.extra_cost:
            return list(outputs)
        lengths = [num_tokens(chunk) or 0 for chunk in chunks]
        bound = min(self._shortest, SHORT_TOKENS, max(lengths))
        made = list(outputs)
        for index in sorted((n for n, length in enumerate(lengths) if length < bound), key=lengths.__getitem__):
            chunk = chunks[index]
            alone = self._step([chunk], partial(self._steps.forward, chunk))
            if not isinstance(alone, RowError):
                self._note_length(chunk)
                break
            if not isinstance(alone.__cause__, RowTimeout) and not self._does_not_fit(alone):
                made[index] = alone
        return made

    def _note_length(self, chunk: Any) -> None:
        """Notes that a chunk of this length runs by itself."""
        self._shortest = min(self._shortest, num_tokens(chunk) or 0)

    def _forward_batch(self, chunks: Sequence[Any], padding: Padding) -> list[Any]:
        outputs = self._steps.forward(collate(chunks, padding))
        return split_outputs(outputs, [num_tokens(chunk) for chunk in chunks], self._steps.is_sequence, padding)

    def _count(self, chunks: Sequence[Any]) -> None:
        costs = [cost(chunk) for chunk in chunks]
        self._counters.cost_unit = self._counters.cost_unit or cost_unit(chunks[0])
        self._counters.num_chunks += len(chunks)
        self._counters.cost += sum(costs)
        self._counters.note_costs(costs)
        self._counters.padded_cost += max(costs) * len(costs)


def _are_rests(batches: Sequence[Sequence[int]], groups: Sequence[Hashable]) -> list[bool]:
    """Whether each batch is what was left of its group behind others, however much it might have held.

    >>> _are_rests([[0, 1], [2], [3]], ["a", "a", "a", "b"])
    [False, True, False]
    """
    own = [groups[batch[0]] for batch in batches]
    around = zip([None, *own[:-1]], own, [*own[1:], None], strict=True)
    return [group == before and group != after for before, group, after in around]


def _first_of_equal_length(chunks: Sequence[Any]) -> int | None:
    """The first chunk that is as long as another."""
    lengths = [num_tokens(chunk) for chunk in chunks]
    numbers = Counter(lengths)
    return next((index for index, length in enumerate(lengths) if numbers[length] > 1), None)


def _some_lengths(chunks: Sequence[Any], most: int) -> list[int]:
    """Some chunks of a batch, of different lengths and rather padded ones, the shortest first; one if all are equal."""
    by_length = {num_tokens(chunk): index for index, chunk in reversed(list(enumerate(chunks)))}
    padded = [by_length[length] for length in sorted(by_length, key=lambda length: length or 0)[:-1]]
    if len(padded) <= most:
        return padded or [0]
    return [padded[position * (len(padded) - 1) // max(1, most - 1)] for position in range(most)]
