"""`map` of one task or several: data that is in this process, over Ray and back, as the kind of thing that came in.

    list, tuple, map-style dataset   list of results, a `RowError` in place of one that failed      (as `spec.run`)
    generator, iterator              iterator of results, while the input is still being made
    pandas.DataFrame                 the frame with columns `prediction` and `error`
    pandas.Series                    a series of results with its index; a pyarrow.Array is a list
    pyarrow.Table                    the table, likewise; pyarrow.RecordBatchReader: a reader that streams
    datasets.Dataset, DatasetDict    the same, likewise; datasets.IterableDataset: iterator of its rows, likewise
    ray.data.Dataset                 a lazy dataset, as `spec(dataset)` gives it

With several tasks a result is a dictionary of those of each, and there are as many columns in place of `prediction`.
Results have the order of the input, always. What has an end goes through Ray Data with all its stages; only the columns
that are inputs travel, and the others never leave this process. What is a stream is cut into blocks, small ones first,
and sent to workers of its own, two blocks each at a time: nothing is collected, and memory is that of some blocks.

Python objects (strings, dictionaries, pictures, arrays, chats) travel as they are, so that a list may mix them just as
it may for `spec.run`.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import pyarrow as pa

from ray_pipelines.arrow import ERROR_TYPE, empty_table
from ray_pipelines.data.counting import COUNTERS_COLUMN, counters_of
from ray_pipelines.data.items import is_of, items_of
from ray_pipelines.data.workers import ERROR_COLUMN, ITEM_COLUMN
from ray_pipelines.errors import ConfigError, RowError

if TYPE_CHECKING:
    from ray_pipelines.data.pipeline import PipelineSpec
    from ray_pipelines.data.pipelines import PipelinesSpec
    from ray_pipelines.data.resources import WorkerPlan
    from ray_pipelines.data.several import AnySetup
    from ray_pipelines.report.metrics import Progress

    AnySpec: TypeAlias = PipelineSpec | PipelinesSpec

__all__ = ["map_data"]

ROW_COLUMN = "__row"
FIRST_STREAM_ROWS = 32
BLOCKS_PER_WORKER = 2

T = TypeVar("T")


def map_data(spec: AnySpec, data: Any, inputs: Mapping[str, Any], progress: bool) -> Any:
    """See `PipelineSpec.map`."""
    if isinstance(data, str | bytes | dict) and not is_of(data, "datasets"):
        raise TypeError(f"data: expected a list or an iterable of items; got a {type(data).__name__}. Wrap it: [item].")
    mapping = _Mapping(spec, inputs, progress)
    if is_of(data, "ray"):
        return spec(data, **inputs)
    if is_of(data, "pandas") and hasattr(data, "columns"):
        return mapping.pandas(data)
    if is_of(data, "datasets"):
        return mapping.datasets(data)
    if isinstance(data, pa.Table | pa.RecordBatch):
        return mapping.table(pa.table(data))
    if isinstance(data, pa.RecordBatchReader):
        return mapping.reader(data)
    if inputs:
        raise ConfigError(f"{next(iter(inputs))}: names an input, but a {type(data).__name__} of items has no columns.")
    if is_of(data, "pandas") and hasattr(data, "index"):
        return mapping.series(data)
    data = items_of(data)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return mapping.items([data[index] for index in range(len(data))])
    if isinstance(data, Iterable):
        return mapping.stream_of_items(data)
    raise TypeError(
        f"data: expected a list, an iterable, a pandas or Arrow table, a datasets.Dataset or a Ray dataset; "
        f"got a {type(data).__name__}."
    )


@dataclasses.dataclass(frozen=True)
class _Mapping:
    """One specification over one thing: `inputs` are its columns, where it has any."""

    spec: AnySpec
    inputs: Mapping[str, Any]
    progress: bool

    # --- what has an end

    def items(self, items: Sequence[Any]) -> list[Any]:
        return self._results(self._ended(self._packed(items), self.spec.inputs_of_items(), has_items=True))

    def pandas(self, frame: Any) -> Any:
        mapped, columns = self._mapped(list(frame.columns))
        try:
            table = pa.Table.from_pandas(frame[columns], preserve_index=False)
        except (pa.ArrowException, TypeError, ValueError):
            # Pictures, arrays of several axes and other objects that Arrow has no type for.
            found = self._ended(_packed(frame[columns].to_dict("records")), mapped, has_items=True)
        else:
            found = self._ended(table, mapped)
        return frame.assign(**{name: found[name].to_pylist() for name in found.column_names})

    def series(self, series: Any) -> Any:
        import pandas

        return pandas.Series(self.items(items_of(series)), index=series.index, name=series.name, dtype=object)

    def table(self, table: pa.Table) -> pa.Table:
        mapped, columns = self._mapped(table.column_names)
        found = self._ended(table.select(columns), mapped)
        for name in found.column_names:
            table = table.append_column(found.schema.field(name), found[name])
        return table

    def datasets(self, data: Any) -> Any:
        import datasets

        if isinstance(data, datasets.DatasetDict | datasets.IterableDatasetDict):
            return type(data)({name: self.datasets(split) for name, split in data.items()})
        if isinstance(data, datasets.IterableDataset):
            return self._stream_of_rows(data)
        mapped, columns = self._mapped(data.column_names)
        blocks = data.select_columns(columns).with_format("arrow").iter(self.spec.rows_per_call)
        tables = list(blocks) if len(data) else [data.select_columns(columns).with_format("arrow")[:]]
        found = self._ended(pa.concat_tables(tables), mapped)
        added = datasets.Dataset(found)
        if not len(data):
            features = datasets.Features({**data.features, **added.features})
            return datasets.Dataset.from_dict({name: [] for name in features}, features=features)
        return datasets.concatenate_datasets([data, added.with_format(data.format["type"])], axis=1)

    def _ended(self, table: pa.Table, mapped: Mapping[str, Any], has_items: bool = False) -> pa.Table:
        """The predictions and errors of `table`, in its order."""
        import ray.data

        from ray_pipelines.data.job import start_ray
        from ray_pipelines.data.room import room_for
        from ray_pipelines.data.stages import apply_stages

        start_ray()
        if not table.num_rows:
            return self._empty()
        numbered = table.append_column(ROW_COLUMN, pa.array(range(table.num_rows), pa.int64()))
        size = self.spec.rows_per_call
        blocks = [numbered.slice(first, size).combine_chunks() for first in range(0, table.num_rows, size)]
        dataset = ray.data.from_arrow(blocks)
        setup, plan = self.spec.setup_and_plan(dataset, mapped, has_items=has_items)
        setup = dataclasses.replace(setup, is_counted=True, dropped_columns=tuple(table.column_names))
        predicted = apply_stages(dataset, setup, plan)
        predicted.context.enable_progress_bars = False
        with room_for(plan, self.spec.workers):
            made = pa.concat_tables(_shown(predicted, table.num_rows, plan, self.progress))
        return made.sort_by(ROW_COLUMN).drop_columns([ROW_COLUMN])

    def _empty(self) -> pa.Table:
        types = [(name, known or pa.null()) for name, known in self.spec.result_types().items()]
        return empty_table(pa.schema([*types, (ERROR_COLUMN, ERROR_TYPE)]))

    # --- streams

    def stream_of_items(self, items: Iterable[Any]) -> Iterator[Any]:
        blocks = (self._packed(block) for block in _growing(items, self.spec.rows_per_call))
        for table in self._streamed(blocks, self.spec.inputs_of_items(), has_items=True):
            yield from self._results(table)

    def reader(self, reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
        mapped, _ = self._mapped(reader.schema.names)
        result_types = self.spec.result_types()
        if None in result_types.values():
            raise ConfigError("data: a stream needs a task whose results have a known type. Pass a pyarrow.Table.")
        added = {**result_types, ERROR_COLUMN: ERROR_TYPE}
        schema = pa.schema([*reader.schema, *(pa.field(name, of) for name, of in added.items())])
        tables = self._streamed((pa.Table.from_batches([batch]) for batch in reader if batch.num_rows), mapped)
        batches = itertools.chain.from_iterable(table.cast(schema).to_batches() for table in tables)
        return pa.RecordBatchReader.from_batches(schema, batches)

    def _stream_of_rows(self, data: Any) -> Iterator[dict[str, Any]]:
        # Each row is made once: making it may be slow, or cost something.
        pieces = data.with_format("arrow").iter(FIRST_STREAM_ROWS)
        most = max(1, self.spec.rows_per_call // FIRST_STREAM_ROWS)
        blocks = (pa.concat_tables(some, promote_options="default") for some in _growing(pieces, most, first=1))
        first = next(blocks, None)
        if first is None:
            return
        mapped, _ = self._mapped(first.column_names)
        for table in self._streamed(itertools.chain([first], blocks), mapped):
            yield from table.to_pylist()

    def _streamed(
        self, blocks: Iterator[pa.Table], mapped: Mapping[str, Any], has_items: bool = False
    ) -> Iterator[pa.Table]:
        """Each block with its predictions and errors, in order; the next are taken while workers are free."""
        import ray

        from ray_pipelines.data.execute import job_error
        from ray_pipelines.data.job import start_ray
        from ray_pipelines.data.room import room_for

        first = next(blocks, None)
        if first is None:
            return
        start_ray()
        setup, plan = self.spec.setup_and_plan(ray.data.from_arrow(first), mapped, has_items=has_items)
        setup = dataclasses.replace(setup, is_counted=True)
        waiting: deque[Any] = deque()
        done = _Done(plan, self.progress)
        with room_for(plan, self.spec.workers), _workers(setup, plan) as workers:
            most_waiting = BLOCKS_PER_WORKER * len(workers) * plan.num_calls
            try:
                for worker, block in zip(itertools.cycle(workers), itertools.chain([first], blocks)):
                    waiting.append(worker.__call__.remote(block))
                    if len(waiting) >= most_waiting:
                        yield done.noted(ray.get(waiting.popleft()))
                while waiting:
                    yield done.noted(ray.get(waiting.popleft()))
                done.end()
            except ray.exceptions.RayError as error:
                raise job_error(error) from error
            finally:
                # What is cancelled is not tried again when its worker ends, as Ray would say of it.
                for block in waiting:
                    ray.cancel(block)

    # --- inputs

    def _mapped(self, columns: list[Any]) -> tuple[dict[str, Any], list[str]]:
        """The mapping of inputs to columns or constants, and the columns that are needed."""
        mapped = self.spec.mapped_inputs([name for name in columns if isinstance(name, str)], self.inputs)
        needed = self.spec.columns_of(mapped)
        if several := [name for name in needed if columns.count(name) > 1]:
            raise ConfigError(f'data: has {columns.count(several[0])} columns "{several[0]}". Rename all but one.')
        return mapped, needed

    def _packed(self, items: Sequence[Any]) -> pa.Table:
        return _packed([self.spec.columns_of_item(item) for item in items])

    # --- results

    def _results(self, table: pa.Table) -> list[Any]:
        """Results, and a `RowError` in place of each that failed."""
        errors = table[ERROR_COLUMN].to_pylist()
        results = table.select(list(self.spec.result_types())).to_pylist()
        return [
            RowError(**error) if error is not None else self.spec.result_of(row)
            for row, error in zip(results, errors, strict=True)
        ]


@contextmanager
def _workers(setup: AnySetup, plan: WorkerPlan) -> Iterator[list[Any]]:
    """Actors that do all of a row; one that dies is started anew, and its blocks are run again."""
    import ray

    from ray_pipelines.data.several import worker_class

    actor: Any = worker_class(setup)
    if plan.application is not None:
        from ray_pipelines.data.serve_stage import ServeWorker

        actor = ServeWorker
    worker = ray.remote(actor).options(**plan.ray_options, max_restarts=-1, max_task_retries=-1)
    workers = [worker.remote(setup) for _ in range(plan.max_workers)]
    try:
        yield workers
    finally:
        for worker in workers:
            ray.kill(worker)


class _Done:
    """Says now and then how far a stream has come; no bar, as its results may be printed meanwhile.

    Args:
        plan: The workers.
        is_shown: Whether anything is to be said.
    """

    def __init__(self, plan: WorkerPlan, is_shown: bool) -> None:
        from rich.console import Console

        from ray_pipelines.report.metrics import Progress
        from ray_pipelines.report.terminal import ProgressDisplay

        self._start_s = time.perf_counter()
        self._state = Progress(None, plan.describe(), plan.max_workers)
        self._display = ProgressDisplay(Console(stderr=True, quiet=not is_shown), None)

    def noted(self, table: pa.Table) -> pa.Table:
        """The table, which is done, without its counters."""
        table = _noted(table, self._state, self._start_s)
        self._display(self._state)
        return table

    def end(self) -> None:
        """Says what all of it was, if anything has been said."""
        self._display.end(self._state)


def _noted(table: pa.Table, state: Progress, start_s: float) -> pa.Table:
    """The table without its counters, which `state` has now."""
    num_errors = table.num_rows - table[ERROR_COLUMN].null_count
    block = {"num_rows": table.num_rows, "num_errors": num_errors, "errors": [], "written_s": time.time()}
    state.add({**block, "counters": counters_of(table).to_json()}, time.perf_counter() - start_s)
    return table.drop_columns([name for name in table.column_names if name == COUNTERS_COLUMN])


def _shown(dataset: Any, num_rows: int, plan: WorkerPlan, progress: bool) -> list[pa.Table]:
    """The blocks of `dataset` as it is run, with progress on the terminal."""
    import ray

    from ray_pipelines.data.execute import job_error
    from ray_pipelines.report.metrics import Progress
    from ray_pipelines.report.terminal import filtered_stderr, live_progress

    made, start_s = [], time.perf_counter()
    state = Progress(num_rows, plan.describe(), plan.max_workers)
    with ExitStack() as stack:
        show: Callable[[Progress], None] = lambda state: None  # noqa: E731  # no name of its own is needed
        if progress:
            show = stack.enter_context(live_progress(stack.enter_context(filtered_stderr())))
        show(state)
        try:
            for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                made.append(_noted(table, state, start_s))
                show(state)
        except ray.exceptions.RayError as error:
            raise job_error(error) from error
    return made


def _packed(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows whose columns are Python objects."""
    from ray import cloudpickle

    return pa.table({ITEM_COLUMN: pa.array(map(cloudpickle.dumps, rows), pa.large_binary())})


def _growing(items: Iterable[T], most: int, first: int = FIRST_STREAM_ROWS) -> Iterator[list[T]]:
    """Lists of items, each twice as long as the one before until they have `most`: first results come early."""
    iterator, size = iter(items), min(first, most)
    while block := list(itertools.islice(iterator, size)):
        yield block
        size = min(2 * size, most)
