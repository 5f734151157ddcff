"""Items to windows of chunks, the rows among which batches are formed; the next window while the device computes.

A window is closed when it has `window_rows` chunks, or as many as fill some batches where nothing was said, or when its
inputs take too much memory. Items are walked lazily: no more than two windows of them are in memory, and an item with
very many chunks may span several windows. Which item is in which window depends on the items alone, never on time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import torch

from ray_pipelines.engine.batching import cost
from ray_pipelines.engine.counters import Counters
from ray_pipelines.errors import RowError, attempt

__all__ = ["Item", "Many", "Window", "Windows", "exploded", "prefetched"]

WINDOW_ROWS = 512
MAX_WINDOW_ROWS = 4096
WINDOW_BYTES = 256 << 20


@dataclass
class Item:
    """An item on its way: its place among the items, and the outputs of its chunks so far, or its first error.

    Whoever preprocesses writes `num_chunks` and `is_complete`; whoever forwards writes `outputs` and `num_done`.
    """

    row: int = 0
    outputs: list[Any] = field(default_factory=list)
    num_chunks: int = 0
    num_done: int = 0
    is_complete: bool = False
    error: RowError | None = None
    preprocess_error: RowError | None = None

    @property
    def first_error(self) -> RowError | None:
        """Why the item has no result."""
        return self.error or self.preprocess_error

    @property
    def is_finished(self) -> bool:
        """Whether nothing more is to come."""
        return self.is_complete and (self.error is not None or self.num_done == self.num_chunks)


@dataclass
class Window:
    """Chunks that are batched together.

    Attributes:
        started: Items whose first chunk, or error, is in this window, in input order.
        entries: Item, index of the chunk in it, and chunk.
        is_last: Whether no other follows.
    """

    started: list[Item] = field(default_factory=list)
    entries: list[tuple[Item, int, Any]] = field(default_factory=list)
    cost: int = 0
    num_bytes: int = 0
    is_last: bool = False

    def add(self, item: Item, chunk: Any) -> None:
        """Adds the next chunk of `item`."""
        self.entries.append((item, item.num_chunks, chunk))
        item.outputs.append(None)
        item.num_chunks += 1
        self.cost += cost(chunk)
        self.num_bytes += sum(value.nbytes for value in chunk.values() if isinstance(value, torch.Tensor))


class Windows:
    """Makes windows of items.

    Args:
        window_rows: Chunks of a window; None for as many as fill some batches.
        full_cost: Gives the cost that fills some batches; None for any.
        counters: Where the time is counted.
    """

    def __init__(self, window_rows: int | None, full_cost: Callable[[], int | None], counters: Counters) -> None:
        self._rows = window_rows
        self._full_cost = full_cost
        self._counters = counters

    def of(
        self, items: Iterable[Any], explode: Callable[[Any, int], Iterator[Any]], many: Many | None
    ) -> Iterator[Window]:
        """The windows of `items`.

        Args:
            items: The items, or `RowError`s, which keep their place.
            explode: Makes the chunks of one item, which is told with its place among the items.
            many: Makes the chunks of many items at once, where that can be done.
        """
        group_size = min(many.group_size, self._rows or WINDOW_ROWS) if many is not None else 1
        window = Window()
        num_items = 0
        for group in _groups(_timed(items, self._counters), group_size):
            chunks_of_items = self._preprocessed(group, num_items, many)
            for index, source in enumerate(group):
                item = Item(num_items)
                num_items += 1
                window.started.append(item)
                if isinstance(source, RowError):
                    item.error = source
                else:
                    made = chunks_of_items[index]
                    if made is None:
                        made = exploded(explode, source, item.row, self._counters)
                    for chunk in made:
                        if isinstance(chunk, RowError):
                            # The chunks before it still run: the first that fails says why, whatever their window.
                            item.preprocess_error = chunk
                            break
                        window.add(item, chunk)
                        if self._is_full(window):
                            yield window
                            window = Window()
                            if item.error is not None:
                                break
                item.is_complete = True
        window.is_last = True
        yield window

    def _is_full(self, window: Window) -> bool:
        if window.num_bytes >= WINDOW_BYTES:
            return True
        rows = len(window.entries)
        if self._rows is not None:
            return rows >= self._rows
        full_cost = self._full_cost()
        return rows >= WINDOW_ROWS and (full_cost is None or window.cost >= full_cost or rows >= MAX_WINDOW_ROWS)

    def _preprocessed(self, group: Sequence[Any], first_row: int, many: Many | None) -> Sequence[Any]:
        if many is None or len(group) == 1:
            return [None] * len(group)
        start_s = time.perf_counter()
        made = many.chunks(group, range(first_row, first_row + len(group)))
        self._counters.preprocess_s += time.perf_counter() - start_s
        return made


@dataclass(frozen=True)
class Many:
    """A way to preprocess many items at once.

    Attributes:
        chunks: Gives for each item its chunks, or None where the item must be preprocessed by itself; is told their
            places among the items too.
        group_size: Items of one call at most.
    """

    chunks: Callable[[Sequence[Any], Sequence[int]], Sequence[Any]]
    group_size: int


_END = object()


def _timed(items: Iterable[Any], counters: Counters) -> Iterator[Any]:
    """The items; what it takes to get them (to decode a row's media, mostly) is counted."""
    iterator = iter(items)
    while True:
        start_s = time.perf_counter()
        item = next(iterator, _END)
        counters.decode_s += time.perf_counter() - start_s
        if item is _END:
            return
        yield item


def _groups(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while group := list(islice(items, size)):
        yield group


def exploded(explode: Callable[[Any, int], Iterator[Any]], item: Any, row: int, counters: Counters) -> Iterator[Any]:
    """The chunks of an item as they are made; an error stands in the place of the first that cannot be."""
    chunks: Iterator[Any] | RowError = attempt("preprocess", lambda: explode(item, row))
    if isinstance(chunks, RowError):
        yield chunks
        return
    step = partial(next, chunks, _END)
    while True:
        start_s = time.perf_counter()
        chunk = attempt("preprocess", step)
        counters.preprocess_s += time.perf_counter() - start_s
        if chunk is _END:
            return
        yield chunk
        if isinstance(chunk, RowError):
            return


def prefetched(windows: Iterator[Window]) -> Iterator[Window]:
    """The windows, each made in a thread while the one before is worked on; what fails there is raised here.

    Closing the iterator waits for the window that is being made. No thread is started for the first one.
    """
    window = next(windows)
    with ThreadPoolExecutor(1, thread_name_prefix="preprocess") as thread:
        while True:
            following = None if window.is_last else thread.submit(next, windows)
            yield window
            if following is None:
                return
            window = following.result()
