"""What runs in Ray's processes: the worker that holds a pipeline, and the CPU stages around a forward-only worker.

Each is 1:1 and deterministic in row order: Ray replays a killed actor's work and counts what came before. Rows that
fail have a null prediction and an `error`; the process ends only if its device is lost (`os._exit`: `sys.exit` would
hang Ray) or a row never comes back (`watchdog.py`), and Ray starts another, which knows from the notes of the first
(`journal.py`) which rows to be careful with.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import pickle
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ray_pipelines import tasks
from ray_pipelines.arrow import TENSORS_TYPE, errors_to_arrow, results_to_arrow, set_column
from ray_pipelines.config import BatchConfig, FilesystemConfig, MediaLimits, OptimizeConfig
from ray_pipelines.data.counting import WorkerClock, add_counters
from ray_pipelines.data.fetch import fetched
from ray_pipelines.data.watchdog import Watchdog
from ray_pipelines.engine.counters import Counters
from ray_pipelines.engine.hub import PinnedModel
from ray_pipelines.engine.process import loading_process
from ray_pipelines.engine.watch import Watch
from ray_pipelines.errors import RowError, attempt

if TYPE_CHECKING:
    from ray_pipelines.engine.runner import Runner

__all__ = [
    "ERROR_COLUMN",
    "ITEM_COLUMN",
    "READ_ERROR_COLUMN",
    "ApplicationSetup",
    "ForwardWorker",
    "ModelWorker",
    "PipelineWorker",
    "WorkerSetup",
    "postprocess_table",
    "preprocess_table",
    "values_of_table",
    "watched_results",
]

ERROR_COLUMN = "error"
READ_ERROR_COLUMN = "__read_error"
TENSORS_COLUMN = "__tensors"
ITEM_COLUMN = "__item"
"""All columns of a row as Python objects, where rows come from this program and not from files (`mapping.py`)."""


@dataclass(frozen=True)
class ApplicationSetup:
    """A Serve application whose replicas run the rows.

    Attributes:
        name: Its name.
        identity: Fingerprint of the model that it must have (`engine/identity.py`).
        wait_s: Seconds that it may be gone or without a running replica.
    """

    name: str
    identity: str
    wait_s: float


@dataclass(frozen=True)
class WorkerSetup:
    """All that a worker needs to know, small enough to be sent to each.

    Attributes:
        task: The task.
        model: The model, pinned.
        instances: A Ray reference to the objects that the user passed in place of names, or None.
        parameters: The task's parameters as the user gave them.
        inputs: Field of the task: column.
        prepared: Field of the task: hidden column of its value where the row has none (`data/prepare.py`).
        constants: Field of the task: its value in all rows.
        results_as_they_come: Leave the pipeline's results as they are, rather than in the shape of the task.
        is_counted: Add what each table has cost as a column (`data/counting.py`).
        dropped_columns: Columns that nobody needs once the model inputs are made, such as a picture's bytes.
        output_column: Name of the column of results.
        result_type: Arrow type of one result.
        batch: How rows share a forward.
        limits: What decoding may cost.
        seed: With a row's content, the seed of that row.
        device: Torch device, or None to let transformers choose.
        num_threads: Torch threads.
        num_neighbours: Workers that share the memory of a node, this one among them.
        timeout_s: Seconds that a step may take; None for no limit.
        filesystem: How media that rows name by URI are opened.
        application: Whose replicas run the rows, where no worker does.
        has_items: Rows were made by this program: their columns are Python objects in `ITEM_COLUMN`, which is unpickled
            for no other rows. Without `inputs`, columns are fields.
    """

    task_name: str
    has_own_pipeline: bool
    model: PinnedModel
    instances: Any
    parameters: Mapping[str, Any]
    inputs: Mapping[str, str]
    constants: Mapping[str, Any]
    output_column: str
    result_type: pa.DataType | None
    batch: BatchConfig
    limits: MediaLimits
    seed: int
    device: str | int | None
    num_threads: int
    num_neighbours: int
    optimize: OptimizeConfig = dataclasses.field(default_factory=OptimizeConfig)
    results_as_they_come: bool = False
    dropped_columns: tuple[str, ...] = ()
    is_counted: bool = False
    timeout_s: float | None = None
    prepared: Mapping[str, str] = field(default_factory=dict)
    filesystem: FilesystemConfig = field(default_factory=FilesystemConfig)
    application: ApplicationSetup | None = None
    has_items: bool = False

    @property
    def parts(self) -> dict[str, WorkerSetup]:
        """Column of results: the setup of that task; one here, several in `SeveralSetup`."""
        return {self.output_column: self}

    @property
    def rows_per_call(self) -> int:
        """Rows that a worker is handed at once."""
        return self.batch.rows_per_call

    @property
    def has_own_results(self) -> bool:
        """Whether a pipeline of the user's makes results that go into the task's type."""
        return self.has_own_pipeline and not self.results_as_they_come

    def known_by(self, table: pa.Table) -> pa.Table:
        """The columns of the input that a batch is known by, should its worker die over it."""
        columns = [ITEM_COLUMN] if self.has_items else sorted(set(self.inputs.values()))
        return table.select(columns) if columns else table

    def load(self, *, weights: bool = True, watch: Watch | None = None) -> Runner:
        """The runner of this setup, on this process's device; watched by a watchdog of its own, or by `watch`."""
        with loading_process():
            runner = self._loaded(weights)
        runner.share_memory(self.num_neighbours)
        runner.watch = watch if watch is not None else Watchdog(self.timeout_s)
        return runner

    def _loaded(self, weights: bool) -> Runner:
        import torch

        from ray_pipelines.engine.load import load_runner

        torch.set_num_threads(self.num_threads if weights else 1)
        # They were checked before: what only a class of the user's knows is among them.
        own = self.has_own_pipeline
        task = tasks.resolve(self.task_name, has_own_pipeline=own, has_own_parameters=own)
        parameters = tasks.validate_parameters(task, self.parameters)
        if self.results_as_they_come:
            from ray_pipelines.engine.plain import plain

            task = dataclasses.replace(task, to_result=lambda result, _: plain(result))
        model = self.model
        if self.instances is not None:
            import ray

            model = PinnedModel(model.config, model.sources, ray.get(self.instances))
        loading = {"device": self.device, "weights": weights, "offline": True}
        return load_runner(task, model, parameters, self.batch, self.limits, self.seed, self.optimize, **loading)

    def load_without_weights(self) -> Runner:
        """The runner to preprocess and postprocess with, kept by this process."""
        return _runner_without_weights(self.task_name, _Hidden(self))


class ModelWorker(ABC):
    """An actor that holds a pipeline, and counts what each table has cost it.

    Args:
        setup: What to load and how to run it.
    """

    def __init__(self, setup: WorkerSetup) -> None:
        start_s = time.perf_counter()
        self.setup = setup
        self.runner = setup.load()
        self._clock = WorkerClock(start_s)

    def __call__(self, table: pa.Table) -> pa.Table:
        """What the stage makes of the table, with its counters."""
        before = self.runner.counters.copy()
        with self._clock.working(self.runner.counters):
            output = self.output_of(table)
        return counted(output, self.runner.counters.since(before), self.setup)

    @abstractmethod
    def output_of(self, table: pa.Table) -> pa.Table:
        """What the stage makes of the table."""


class PipelineWorker(ModelWorker):
    """The fused stage: an actor that does all of a row."""

    def output_of(self, table: pa.Table) -> pa.Table:
        """The table with its predictions and errors."""
        return with_results(table, self._results(table), self.setup)

    @property
    def counters(self) -> Counters:
        """What has been counted so far."""
        return self.runner.counters.copy()

    @property
    def runners(self) -> Mapping[str, Runner]:
        """Column of results: its runner."""
        return {self.setup.output_column: self.runner}

    def _results(self, table: pa.Table) -> list[Any]:
        def run(rows: Sequence[int]) -> Iterator[Any]:
            return self.runner.run(items_of_table(table, self.setup, self.runner, rows))

        return results_of_rows(self.runner, self.setup.known_by(table), "fused", run)


def preprocess_table(table: pa.Table, setup: WorkerSetup) -> pa.Table:
    """The first CPU stage: the table with the model inputs of each row, or its error, in place of its media.

    Args:
        table: Rows as they were read.
        setup: The pipeline; loaded once per process, without weights.
    """
    from ray_pipelines.engine.transfer import pack

    runner = setup.load_without_weights()
    before = runner.counters.copy()

    def run(rows: Sequence[int]) -> Iterator[Any]:
        for place, item in enumerate(items_of_table(table, setup, runner, rows)):
            chunks = runner.preprocess(item, place)
            yield chunks if isinstance(chunks, RowError) else attempt("preprocess", _packer(pack, chunks))

    packed = results_of_rows(runner, setup.known_by(table), "preprocess", run)
    output = _with_tensors(table.drop_columns(list(setup.dropped_columns)), packed)
    return counted(output, runner.counters.since(before), setup)


class ForwardWorker(ModelWorker):
    """The forward stage: an actor that holds the weights and sees only model inputs."""

    def output_of(self, table: pa.Table) -> pa.Table:
        """The table with model outputs in place of model inputs."""
        from ray_pipelines.engine.transfer import pack

        outputs = results_of_rows(
            self.runner,
            table.select([TENSORS_COLUMN]),
            "forward",
            lambda rows: self.runner.outputs(_chunks_of_table(table, rows)),
        )
        packed = [row if isinstance(row, RowError) else attempt("forward", _packer(pack, row)) for row in outputs]
        return _with_tensors(table, packed)


def postprocess_table(table: pa.Table, setup: WorkerSetup) -> pa.Table:
    """The last CPU stage: the table with predictions and errors in place of model outputs."""
    runner = setup.load_without_weights()
    before = runner.counters.copy()

    def run(rows: Sequence[int]) -> Iterator[Any]:
        for place, outputs in enumerate(_chunks_of_table(table, rows)):
            yield runner.postprocess(outputs, place)

    results = results_of_rows(runner, table.select([TENSORS_COLUMN]), "postprocess", run)
    output = with_results(table.drop_columns([TENSORS_COLUMN]), results, setup)
    return counted(output, runner.counters.since(before), setup)


def fields_of_table(
    table: pa.Table, setup: WorkerSetup, rows: Sequence[int] | None = None
) -> Iterator[dict[str, Any] | RowError]:
    """The fields of each row, or its error; made one at a time, as they are asked for.

    Args:
        table: The rows.
        setup: The pipeline.
        rows: Which rows; unset, all.
    """
    rows = range(table.num_rows) if rows is None else rows
    columns = set(setup.inputs.values())
    for row, values in zip(rows, values_of_table(table, columns, rows, has_items=setup.has_items), strict=True):
        if isinstance(values, RowError):
            yield values
            continue
        own = {name: values[column] for name, column in setup.inputs.items()} if setup.inputs else values
        fields = {**setup.constants, **own}
        made = {name: table[column][row].as_py() for name, column in setup.prepared.items() if fields.get(name) is None}
        yield {**fields, **made}


def values_of_table(
    table: pa.Table, columns: Collection[str], rows: Sequence[int], *, has_items: bool
) -> Iterator[dict[str, Any] | RowError]:
    """The columns of each of `rows`, or its error; made one at a time, as they are asked for.

    Args:
        table: The rows.
        columns: Which columns; of rows that are Python objects, all that they have.
        rows: Which rows.
        has_items: Whether rows are Python objects.
    """
    read_errors = table[READ_ERROR_COLUMN] if READ_ERROR_COLUMN in table.column_names else None
    values = {column: table[column] for column in ((ITEM_COLUMN,) if has_items else columns)}
    for row in rows:
        if read_errors is not None and read_errors[row].is_valid:
            yield RowError(**read_errors[row].as_py())
        elif has_items:
            yield attempt("decode", partial(pickle.loads, values[ITEM_COLUMN][row].as_py()))
        else:
            yield {name: field_value(column[row]) for name, column in values.items()}


def items_of_table(table: pa.Table, setup: WorkerSetup, runner: Runner, rows: Sequence[int]) -> Iterator[Any]:
    """What the pipeline takes of each of `rows`, or its error; decoded one at a time, as the runner asks for them."""
    modalities = {each.name: each.modality for each in runner.steps.task.inputs}
    found = fetched(fields_of_table(table, setup, rows), modalities, setup.limits, setup.filesystem)
    for place, fields in enumerate(found):
        if isinstance(fields, RowError):
            yield fields
        elif runner.steps.task.result_type is None and len(fields) == 1:
            yield next(iter(fields.values()))
        else:
            decode = partial(runner.steps.item_of_fields, fields)
            yield attempt("decode", partial(runner.watch.run, "decode", [place], decode))


def field_value(scalar: Any) -> Any:
    """A value of a column as tasks take it."""
    value = scalar.as_py()
    return value.to_numpy() if hasattr(value, "to_numpy") else value


def with_results(table: pa.Table, results: list[Any], setup: WorkerSetup) -> pa.Table:
    """The user's columns, the results and the errors."""
    column, errors = results_to_arrow(results, setup.result_type, is_own=setup.has_own_results)
    return with_columns(table, column, errors_to_arrow(errors), setup)


def with_columns(table: pa.Table, results: pa.Array, errors: pa.Array, setup: WorkerSetup) -> pa.Table:
    """The user's columns, and those of results and errors."""
    unneeded = {READ_ERROR_COLUMN, *setup.dropped_columns}
    table = table.drop_columns([name for name in table.column_names if name in unneeded])
    return set_column(set_column(table, setup.output_column, results), ERROR_COLUMN, errors)


def results_of_rows(
    runner: Runner, table: pa.Table, stage: str, run: Callable[[Sequence[int]], Iterable[Any]]
) -> list[Any]:
    """What `run` gives of each row, or the row's error; if the device is lost, this process ends at once.

    Args:
        runner: A loaded one.
        table: The columns that the rows are known by.
        stage: Name of the stage.
        run: Gives the results of some rows, in order.
    """
    assert isinstance(runner.watch, Watchdog)
    return watched_results(runner.watch, table, stage, run)


def watched_results(
    watch: Watchdog, table: pa.Table, stage: str, run: Callable[[Sequence[int]], Iterable[Any]]
) -> list[Any]:
    """As `results_of_rows`, by the watchdog that is told of the steps."""
    from ray_pipelines.engine.memory import DeviceLost

    try:
        return watch.results(table, stage, run)
    except DeviceLost as error:
        watch.blame_last()
        logging.getLogger(__name__).error("The device is lost, the worker starts anew: %s", error)
        logging.shutdown()
        os._exit(1)


def rows_one_by_one(runner: Runner, table: pa.Table, stage: str) -> Iterator[tuple[int, RowError | None]]:
    """The rows of `table` in order, and the error of one that has ended its worker too often: see `Watchdog.each`."""
    assert isinstance(runner.watch, Watchdog)
    return runner.watch.each(table, stage)


def counted(table: pa.Table, counters: Counters, setup: WorkerSetup) -> pa.Table:
    """The table with its counters, where they are asked for."""
    return add_counters(table, counters) if setup.is_counted else table


def _packer(pack: Any, chunks: Any) -> Any:
    return lambda: [pack(chunk) for chunk in chunks]


def _with_tensors(table: pa.Table, packed: list[Any]) -> pa.Table:
    errors = [row if isinstance(row, RowError) else None for row in packed]
    tensors = pa.array([None if isinstance(row, RowError) else row for row in packed], type=TENSORS_TYPE)
    table = set_column(table, TENSORS_COLUMN, tensors)
    return set_column(table, READ_ERROR_COLUMN, errors_to_arrow(errors))


def _chunks_of_table(table: pa.Table, rows: Sequence[int]) -> Iterator[Any]:
    from ray_pipelines.engine.transfer import unpack

    tensors, errors = table[TENSORS_COLUMN], table[READ_ERROR_COLUMN]
    for row in rows:
        if errors[row].is_valid:
            yield RowError(**errors[row].as_py())
        else:
            yield [unpack(chunk) for chunk in tensors[row].as_py()]


class _Hidden:
    """A setup that compares equal to any other of the same content, to be a key of a cache."""

    def __init__(self, setup: WorkerSetup) -> None:
        import ray.cloudpickle

        self.setup = setup
        self._key = ray.cloudpickle.dumps(setup)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hidden) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@functools.lru_cache(maxsize=2)
def _runner_without_weights(task_name: str, hidden: _Hidden) -> Runner:
    return hidden.setup.load(weights=False)
