"""Several tasks in one worker: a row is read, fetched and decoded once, and goes through all of the models.

    tasks:                                               a row of the results
      sentiment: {task: text-classification, …}            review, sentiment, entities, vector
      entities:  {task: token-classification, …}
      vector:    {task: feature-extraction, …}

A worker holds all models. A stage for each task would have to carry the row's media on, or decode them again, and the
stages would have to share out CPUs and GPUs before anybody knows which of the models is slow; here the slow one simply
takes longer. What has stages of its own is refused: `workers.serve`, `stages: split` and `chunking: groupby`. The
chunks of a row stay in the worker.

A batch of rows is taken in portions: as many rows as have `PORTION_BYTES` when they are decoded, so a batch of texts is
one. Each value of a portion is decoded once for every way that a model wants it (recordings: once per sampling rate).
Then the tasks run over it one after the other, each by a runner of its own with its windows, budget and counters: a
column equals that of a job of its task alone. Each tokenises for itself: with a small encoder on a CPU that is 2 % of
its forward, and on a GPU it happens while the device computes.

A row that fails in one task fails, once: it has no results, its error names the task, and the tasks that follow do not
run it. One watchdog and one journal stand over all tasks of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import tee
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from ray_pipelines import media, tasks
from ray_pipelines.arrow import errors_to_arrow, results_to_arrow, set_column
from ray_pipelines.data.counting import WorkerClock, add_counters
from ray_pipelines.data.fetch import MEDIA, fetched
from ray_pipelines.data.watchdog import Watchdog
from ray_pipelines.data.workers import (
    ERROR_COLUMN,
    ITEM_COLUMN,
    READ_ERROR_COLUMN,
    PipelineWorker,
    WorkerSetup,
    values_of_table,
    watched_results,
)
from ray_pipelines.engine.counters import Counters
from ray_pipelines.engine.watch import Watch
from ray_pipelines.errors import RowError, Stage, attempt

if TYPE_CHECKING:
    from ray_pipelines.engine.runner import Runner
    from ray_pipelines.media.limits import MediaLimits

__all__ = ["AnySetup", "SeveralSetup", "SeveralWorker", "worker_class"]

PORTION_BYTES = 256 << 20
SHARED = ("image", "images", "audio", "video", "videos")
"""Modalities whose decoded form no pipeline changes."""

T = TypeVar("T")
Items = list[Any]
"""Of a row: for each task what it takes, or why there is nothing to take."""


@dataclass(frozen=True)
class SeveralSetup:
    """All that a worker of several tasks needs to know.

    Attributes:
        parts: Column of results: the setup of its task.
        dropped_columns: Columns that nobody needs once the row is decoded.
        is_counted: Add what each table has cost as a column.
        has_items: Rows are Python objects, as in `WorkerSetup`; a part finds some or all of its inputs among them.
    """

    parts: Mapping[str, WorkerSetup]
    dropped_columns: tuple[str, ...] = ()
    is_counted: bool = False
    has_items: bool = False

    @property
    def any_part(self) -> WorkerSetup:
        """One of the parts, for what is the same in all of them."""
        return next(iter(self.parts.values()))

    @property
    def columns(self) -> set[str]:
        """The columns that are inputs of a task."""
        return {column for part in self.parts.values() for column in part.inputs.values()}

    @property
    def rows_per_call(self) -> int:
        """Rows that a worker is handed at once."""
        return max(part.rows_per_call for part in self.parts.values())

    def known_by(self, table: pa.Table) -> pa.Table:
        """The columns of the input that a batch is known by, should its worker die over it."""
        columns = {ITEM_COLUMN} if self.has_items else self.columns
        return table.select(sorted(columns)) if columns else table


AnySetup = WorkerSetup | SeveralSetup


def worker_class(setup: AnySetup) -> type[PipelineWorker] | type[SeveralWorker]:
    """The class of the actor that does all of a row."""
    return PipelineWorker if isinstance(setup, WorkerSetup) else SeveralWorker


class SeveralWorker:
    """The fused stage of several tasks: an actor that holds all of their models.

    Args:
        setup: What to load and how to run it.
    """

    def __init__(self, setup: SeveralSetup) -> None:
        start_s = time.perf_counter()
        self.setup = setup
        self._watch = Watchdog(setup.any_part.timeout_s)
        self.runners = {name: part.load(watch=self._watch) for name, part in setup.parts.items()}
        self._media = {name: _media_fields(part) for name, part in setup.parts.items()}
        self._shared = Counters()
        self._clock = WorkerClock(start_s)

    @property
    def counters(self) -> Counters:
        """What has been counted so far."""
        return Counters.of_parts(self._shared, {name: runner.counters for name, runner in self.runners.items()})

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with the predictions of all tasks and its errors."""
        before = self.counters
        with self._clock.working(self._shared):
            rows = watched_results(self._watch, self.setup.known_by(table), "several", partial(self._run, table))
            output = _with_results(table, rows, self.setup)
        return add_counters(output, self.counters.since(before)) if self.setup.is_counted else output

    def _run(self, table: pa.Table, rows: Sequence[int]) -> Iterator[dict[str, Any] | RowError]:
        """The results of each row by task, or its error."""
        first = 0
        for portion in _portions(self._decoded(table, rows)):
            yield from self._results(portion, first)
            first += len(portion)

    def _results(self, portion: Sequence[Items], first: int) -> list[dict[str, Any] | RowError]:
        results: list[dict[str, Any] | RowError] = [{} for _ in portion]
        for index, (name, runner) in enumerate(self.runners.items()):
            left = [place for place, found in enumerate(results) if not isinstance(found, RowError)]
            runner.watch = _Places(self._watch, [first + place for place in left])
            for place, result in zip(left, runner.run(portion[place][index] for place in left), strict=True):
                found = results[place]
                if isinstance(result, RowError):
                    results[place] = of_task(name, result)
                elif not isinstance(found, RowError):
                    found[name] = result
        return results

    def _decoded(self, table: pa.Table, rows: Sequence[int]) -> Iterator[tuple[Items, int]]:
        """The items of each row, and the bytes of its decoded media."""
        modalities = {
            part.inputs[field]: modality
            for name, part in self.setup.parts.items()
            for field, modality in self._media[name].items()
        }
        any_part = self.setup.any_part
        as_read, own = tee(values_of_table(table, self.setup.columns, rows, has_items=self.setup.has_items))
        found = _timed(fetched(own, modalities, any_part.limits, any_part.filesystem), self._shared)
        for place, (values, media_of) in enumerate(zip(as_read, found, strict=True)):
            if isinstance(values, RowError) or isinstance(media_of, RowError):
                yield [media_of] * len(self.runners), 0
                continue
            start_s = time.perf_counter()
            decode = _Decoder()
            items = [
                self._item(self.runners[name], _fields(part, values, media_of, self._media[name]), decode, place)
                for name, part in self.setup.parts.items()
            ]
            self._shared.decode_s += time.perf_counter() - start_s
            yield items, decode.num_bytes

    def _item(self, runner: Runner, fields: Mapping[str, Any], decode: _Decoder, place: int) -> Any:
        step = partial(runner.steps.item_of_fields, fields, decode)
        return attempt("decode", partial(self._watch.run, "decode", [place], step))


class _Decoder:
    """Decodes the values of one row, each once for every way in which it is wanted."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._made: dict[tuple[int, str, int | None], tuple[Any, Any]] = {}

    def __call__(self, value: Any, modality: str, limits: MediaLimits, sampling_rate: int | None = None) -> Any:
        """As `media.decode`."""
        if modality not in SHARED:
            return media.decode(value, modality, limits, sampling_rate)
        key = (id(value), modality, sampling_rate if modality == "audio" else None)
        if key not in self._made:
            # The value is kept too: while it lives, no other has its number.
            decoded = media.decode(value, modality, limits, sampling_rate)
            self._made[key] = (value, decoded)
            self.num_bytes += _size(decoded)
        decoded = self._made[key][1]
        return list(decoded) if isinstance(decoded, list) else decoded


class _Places(Watch):
    """Tells the watchdog of a batch of the steps of some of its rows.

    Args:
        watch: The watchdog.
        places: Where these rows stand in the batch.
    """

    def __init__(self, watch: Watchdog, places: Sequence[int]) -> None:
        self.timeout_s = watch.timeout_s
        self._watch = watch
        self._places = places

    def run(self, stage: Stage, rows: Sequence[int], function: Callable[[], T]) -> T:
        """As `Watch.run`."""
        return self._watch.run(stage, [self._places[row] for row in rows], function)


def of_task(name: str, error: RowError) -> RowError:
    """The error, with the name of the task that it is about."""
    named = RowError(error.stage, error.type, f"{name}: {error.message}")
    named.__cause__ = error.__cause__
    return named


def _portions(rows: Iterator[tuple[Items, int]]) -> Iterator[list[Items]]:
    """The rows in lists, each ended by the row with which it has `PORTION_BYTES`."""
    portion: list[Items] = []
    num_bytes = 0
    for items, size in rows:
        portion.append(items)
        num_bytes += size
        if num_bytes >= PORTION_BYTES:
            yield portion
            portion, num_bytes = [], 0
    if portion:
        yield portion


def _media_fields(part: WorkerSetup) -> dict[str, str]:
    """The inputs of a task that come from a column whose values may name something to be fetched: their modality."""
    task = tasks.resolve(part.task_name, has_own_pipeline=part.has_own_pipeline)
    return {each.name: each.modality for each in task.inputs if each.modality in MEDIA and each.name in part.inputs}


def _fields(
    part: WorkerSetup, values: Mapping[str, Any], media_of: Mapping[str, Any], media_fields: Collection[str]
) -> dict[str, Any]:
    """The fields of one task, of its constants and the row's columns.

    A column may be an address to be opened for one task and a text for another.
    """
    own = {
        name: (media_of if name in media_fields else values)[column]
        for name, column in part.inputs.items()
        if column in values
    }
    return {**part.constants, **own}


def _with_results(table: pa.Table, rows: Sequence[dict[str, Any] | RowError], setup: SeveralSetup) -> pa.Table:
    """The user's columns, the results of each task and the errors; a row with an error has no result at all."""
    while True:
        columns: dict[str, pa.Array] = {}
        checked = list(rows)
        for name, part in setup.parts.items():
            own = [row if isinstance(row, RowError) else row[name] for row in rows]
            columns[name], errors = results_to_arrow(own, part.result_type, is_own=part.has_own_results)
            for place, error in enumerate(errors):
                if error is not None and not isinstance(checked[place], RowError):
                    checked[place] = of_task(name, error)
        if _num_errors(checked) == _num_errors(rows):
            break
        rows = checked
    unneeded = {READ_ERROR_COLUMN, *setup.dropped_columns}
    table = table.drop_columns([name for name in table.column_names if name in unneeded])
    for name, column in columns.items():
        table = set_column(table, name, column)
    failed = [row if isinstance(row, RowError) else None for row in rows]
    return set_column(table, ERROR_COLUMN, errors_to_arrow(failed))


def _num_errors(rows: Sequence[Any]) -> int:
    return sum(isinstance(row, RowError) for row in rows)


def _timed(values: Iterator[T], counters: Counters) -> Iterator[T]:
    """The values; the time that it takes to get them counts as decoding."""
    while True:
        start_s = time.perf_counter()
        try:
            value = next(values)
        except StopIteration:
            return
        finally:
            counters.decode_s += time.perf_counter() - start_s
        yield value


def _size(value: Any) -> int:
    """About how many bytes a decoded value has in memory."""
    if isinstance(value, list | tuple):
        return sum(map(_size, value))
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    if hasattr(value, "size") and hasattr(value, "getbands"):
        return int(value.size[0] * value.size[1] * len(value.getbands()))
    return int(getattr(getattr(value, "source", value), "nbytes", 0) or len(getattr(value, "source", b"")))
