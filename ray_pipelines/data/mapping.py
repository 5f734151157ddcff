"""`spec.map`: data that is in this process, over Ray and back, as the kind of thing that came in.

    list, tuple, map-style dataset   list of results, a `RowError` in place of one that failed      (as `spec.run`)
    generator, iterator              iterator of results, while the input is still being made
    pandas.DataFrame                 the frame with columns `prediction` and `error`
    pyarrow.Table                    the table, likewise; pyarrow.RecordBatchReader: a reader that streams
    datasets.Dataset, DatasetDict    the same, likewise; datasets.IterableDataset: iterator of its rows, likewise
    ray.data.Dataset                 a lazy dataset, as `spec(dataset)` gives it

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
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from ray_pipelines.arrow import ERROR_TYPE
from ray_pipelines.data.workers import ERROR_COLUMN, ITEM_COLUMN, PipelineWorker
from ray_pipelines.errors import ConfigError, RowError

if TYPE_CHECKING:
    from ray_pipelines.data.pipeline import PipelineSpec
    from ray_pipelines.data.resources import WorkerPlan
    from ray_pipelines.data.workers import WorkerSetup

__all__ = ["map_data"]

ROW_COLUMN = "__row"
FIRST_STREAM_ROWS = 32
BLOCKS_PER_WORKER = 2

T = TypeVar("T")


def map_data(spec: PipelineSpec, data: Any, inputs: Mapping[str, Any], progress: bool) -> Any:
    """See `PipelineSpec.map`."""
    if isinstance(data, str | bytes | dict) and not _is_of(data, "datasets"):
        raise TypeError(f"data: expected a list or an iterable of items; got a {type(data).__name__}. Wrap it: [item].")
    mapping = _Mapping(spec, inputs, progress)
    if _is_of(data, "ray"):
        return spec(data, **inputs)
    if _is_of(data, "pandas"):
        return mapping.pandas(data)
    if _is_of(data, "datasets"):
        return mapping.datasets(data)
    if isinstance(data, pa.Table):
        return mapping.table(data)
    if isinstance(data, pa.RecordBatchReader):
        return mapping.reader(data)
    if inputs:
        raise ConfigError(f"{next(iter(inputs))}: names an input, but a {type(data).__name__} of items has no columns.")
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

    spec: PipelineSpec
    inputs: Mapping[str, Any]
    progress: bool

    # --- what has an end

    def items(self, items: Sequence[Any]) -> list[Any]:
        return _results(self._ended(_packed(self.spec, items), {}, has_items=True))

    def pandas(self, frame: Any) -> Any:
        mapped, columns = self._mapped(list(frame.columns))
        try:
            table = pa.Table.from_pandas(frame[columns], preserve_index=False)
        except (pa.ArrowException, TypeError, ValueError):
            # Pictures, arrays of several axes and other objects that Arrow has no type for.
            rows = frame[columns].to_dict("records")
            found = self._ended(_packed(self.spec, [self._fields(row, mapped) for row in rows]), {}, has_items=True)
        else:
            found = self._ended(table, mapped)
        return frame.assign(**{name: found[name].to_pylist() for name in found.column_names})

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
        blocks = data.select_columns(columns).with_format("arrow").iter(self.spec.batch.rows_per_call)
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

        start_ray()
        if not table.num_rows:
            return self._empty()
        numbered = table.append_column(ROW_COLUMN, pa.array(range(table.num_rows), pa.int64()))
        size = self.spec.batch.rows_per_call
        blocks = [numbered.slice(first, size).combine_chunks() for first in range(0, table.num_rows, size)]
        predicted = self.spec.over(ray.data.from_arrow(blocks), mapped, has_items=has_items)
        predicted = predicted.select_columns([ROW_COLUMN, self.spec.output_column, ERROR_COLUMN])
        predicted.context.enable_progress_bars = False
        made = pa.concat_tables(_shown(predicted, table.num_rows, self.progress))
        return made.sort_by(ROW_COLUMN).drop_columns([ROW_COLUMN])

    def _empty(self) -> pa.Table:
        types = {self.spec.output_column: self.spec.known_result_type() or pa.null(), ERROR_COLUMN: ERROR_TYPE}
        return pa.schema(list(types.items())).empty_table()

    # --- streams

    def stream_of_items(self, items: Iterable[Any]) -> Iterator[Any]:
        blocks = (_packed(self.spec, block) for block in _growing(items, self.spec.batch.rows_per_call))
        for table in self._streamed(blocks, {}, has_items=True):
            yield from _results(table)

    def reader(self, reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
        mapped, _ = self._mapped(reader.schema.names)
        result_type = self.spec.known_result_type()
        if result_type is None:
            raise ConfigError("data: a stream needs a task whose results have a known type. Pass a pyarrow.Table.")
        added = [(self.spec.output_column, result_type), (ERROR_COLUMN, ERROR_TYPE)]
        schema = pa.schema([*reader.schema, *(pa.field(name, of) for name, of in added)])
        tables = self._streamed((pa.Table.from_batches([batch]) for batch in reader if batch.num_rows), mapped)
        batches = itertools.chain.from_iterable(table.cast(schema).to_batches() for table in tables)
        return pa.RecordBatchReader.from_batches(schema, batches)

    def _stream_of_rows(self, data: Any) -> Iterator[dict[str, Any]]:
        # Each row is made once: making it may be slow, or cost something.
        pieces = data.with_format("arrow").iter(FIRST_STREAM_ROWS)
        most = max(1, self.spec.batch.rows_per_call // FIRST_STREAM_ROWS)
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

        first = next(blocks, None)
        if first is None:
            return
        start_ray()
        setup, plan = self.spec.setup_and_plan(ray.data.from_arrow(first), mapped, has_items=has_items)
        workers = _workers(setup, plan)
        most_waiting = BLOCKS_PER_WORKER * len(workers) * plan.num_calls
        waiting: deque[Any] = deque()
        done = _Done(self.progress)
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
            for worker in workers:
                ray.kill(worker)

    # --- inputs

    def _mapped(self, columns: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """The mapping of inputs to columns or constants, and the columns that are needed."""
        mapped = self.spec.mapped_inputs(columns, self.inputs)
        return mapped, sorted({value for value in mapped.values() if isinstance(value, str)})

    def _fields(self, row: Mapping[str, Any], mapped: Mapping[str, Any]) -> dict[str, Any]:
        from ray_pipelines.config import split_inputs

        columns, constants = split_inputs(mapped)
        return {**constants, **{name: row[column] for name, column in columns.items()}}


def _workers(setup: WorkerSetup, plan: WorkerPlan) -> list[Any]:
    """Actors that do all of a row; one that dies is started anew, and its blocks are run again."""
    import ray

    actor: Any = PipelineWorker
    if plan.application is not None:
        from ray_pipelines.data.serve_stage import ServeWorker

        actor = ServeWorker
    worker = ray.remote(actor).options(**plan.ray_options, max_restarts=-1, max_task_retries=-1)
    return [worker.remote(setup) for _ in range(plan.max_workers)]


class _Done:
    """Says now and then how far a stream has come; no bar, as its results may be printed meanwhile.

    Args:
        is_shown: Whether anything is to be said.
    """

    def __init__(self, is_shown: bool) -> None:
        from rich.console import Console

        from ray_pipelines.report.metrics import Progress
        from ray_pipelines.report.terminal import ProgressDisplay

        self._start_s = time.perf_counter()
        self._state = Progress(None, "")
        self._display = ProgressDisplay(Console(stderr=True, quiet=not is_shown), None)

    def noted(self, table: pa.Table) -> pa.Table:
        """The table, which is done."""
        state = self._state
        state.num_rows += table.num_rows
        state.num_errors += table.num_rows - table[ERROR_COLUMN].null_count
        state.elapsed_s = time.perf_counter() - self._start_s
        self._display(state)
        return table

    def end(self) -> None:
        """Says what all of it was, if anything has been said."""
        self._display.end(self._state)


def _shown(dataset: Any, num_rows: int, progress: bool) -> list[pa.Table]:
    """The blocks of `dataset` as it is run, with progress on the terminal."""
    import ray

    from ray_pipelines.data.execute import job_error
    from ray_pipelines.report.metrics import Progress
    from ray_pipelines.report.terminal import filtered_stderr, live_progress

    made, start_s, state = [], time.perf_counter(), Progress(num_rows, "")
    with ExitStack() as stack:
        show: Callable[[Progress], None] = lambda state: None  # noqa: E731  # no name of its own is needed
        if progress:
            show = stack.enter_context(live_progress(stack.enter_context(filtered_stderr())))
        show(state)
        try:
            for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                made.append(table)
                state.num_rows += table.num_rows
                state.num_errors += table.num_rows - table[ERROR_COLUMN].null_count
                state.elapsed_s = time.perf_counter() - start_s
                show(state)
        except ray.exceptions.RayError as error:
            raise job_error(error) from error
    return made


def _packed(spec: PipelineSpec, items: Sequence[Any]) -> pa.Table:
    """Items as they are, one in each row."""
    from ray import cloudpickle

    name = spec.task.inputs[0].name if spec.task.inputs else None

    def fields_of(item: Any) -> dict[str, Any]:
        if spec.task.result_type is None or name is None:
            return {ITEM_COLUMN: item}
        return item if isinstance(item, dict) and name in item else {name: item}

    packed = [cloudpickle.dumps(fields_of(item)) for item in items]
    return pa.table({ITEM_COLUMN: pa.array(packed, pa.large_binary())})


def _results(table: pa.Table) -> list[Any]:
    """Results, and a `RowError` in place of each that failed."""
    predictions, errors = (table[name].to_pylist() for name in table.column_names if name != ITEM_COLUMN)
    return [
        RowError(**error) if error is not None else prediction
        for prediction, error in zip(predictions, errors, strict=True)
    ]


def _growing(items: Iterable[T], most: int, first: int = FIRST_STREAM_ROWS) -> Iterator[list[T]]:
    """Lists of items, each twice as long as the one before until they have `most`: first results come early."""
    iterator, size = iter(items), min(first, most)
    while block := list(itertools.islice(iterator, size)):
        yield block
        size = min(2 * size, most)


def _is_of(data: Any, package: str) -> bool:
    """Whether `data` is of a class of `package`, which need not be imported to know it."""
    return any(base.__module__.split(".")[0] == package for base in type(data).__mro__)
