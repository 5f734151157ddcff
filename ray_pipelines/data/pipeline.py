"""The file to read first: one specification, run over a Ray dataset or in this process.

    spec = pipeline("text-classification", model="org/model", num_gpus=1)      # light; loads nothing
    frame = spec.map(frame, text="review")                                     # over Ray, back as what it came as
    dataset = spec(ray.data.read_parquet("s3://bucket/in"), text="review")     # lazy; adds `prediction` and `error`
    results = spec.run(["Great!", "Never again."])                             # here and now, without Ray

Over a dataset, a specification is one actor stage that does all of a row (fused), or three: CPU tasks that preprocess,
workers that only forward, CPU tasks that postprocess (split). Nothing is materialised, and the plan is refused before
it starts if the cluster cannot hold it.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from ray_pipelines import tasks
from ray_pipelines.config import (
    BatchConfig,
    FilesystemConfig,
    MediaLimits,
    ModelConfig,
    OptimizeConfig,
    WorkersConfig,
    chunking_problems,
    input_problems,
    split_inputs,
)
from ray_pipelines.data.items import iterable_of
from ray_pipelines.errors import ConfigError, RowError
from ray_pipelines.optimize import in_float32
from ray_pipelines.tasks._old_names import modern_parameters

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

    from ray_pipelines.data.resources import WorkerPlan
    from ray_pipelines.data.workers import ApplicationSetup, WorkerSetup
    from ray_pipelines.engine.hub import PinnedModel
    from ray_pipelines.engine.runner import Runner
    from ray_pipelines.nodes import Node
    from ray_pipelines.report.agreement import Agreement

__all__ = ["PipelineSpec"]

logger = logging.getLogger(__name__)

Data = TypeVar("Data")

NOT_SENT = ("_loaded", "_pinned")
"""What a specification keeps of its process: its runner, and the commits that names meant."""


@dataclass(frozen=True)
class PipelineSpec:
    """A task with its model and settings: light, picklable, and nothing is loaded until it runs.

    Made by `pipeline()` (`arguments.py`). Call it with a `ray.data.Dataset` to get the dataset with predictions; `run`
    does the same with a list or a generator, in this process.

    Attributes:
        task_name: Task id.
        model: What to load.
        parameters: Parameters of the task, as the user gave them.
        workers: Workers and their resources.
        batch: How rows share a forward.
        optimize: What makes the model cheaper to run.
        limits: What decoding a row's media may cost.
        filesystem: How media that rows name by URI are opened.
        seed: With a row's content, the seed of that row where the task draws random numbers.
        output_column: Name of the column of results.
        instances: Objects passed in place of names: a model, a tokenizer, a pipeline class.
    """

    task_name: str
    model: ModelConfig = field(default_factory=ModelConfig)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    optimize: OptimizeConfig = field(default_factory=OptimizeConfig)
    limits: MediaLimits = field(default_factory=MediaLimits)
    filesystem: FilesystemConfig = field(default_factory=FilesystemConfig)
    seed: int = 0
    output_column: str = "prediction"
    instances: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.task.takes_assistant and (self.model.assistant_model or "assistant_model" in self.instances):
            raise ConfigError(f"model.assistant_model: has no use in {self.task_name}. Drop it.")
        registered = tasks.registered_class(self.task_name)
        if registered is not None and not registered.__module__.startswith("transformers.") and not self.has_own_class:
            # Workers are other processes, where nobody has registered it.
            object.__setattr__(self, "instances", {**self.instances, "pipeline_class": registered})
        object.__setattr__(self, "parameters", modern_parameters(self.task.name, self.parameters))
        tasks.validate_parameters(self.task, self.parameters)
        if self.workers.serve is not None and (self.has_own_pipeline or self.instances):
            raise ConfigError("workers.serve: excludes a pipeline or objects of your own, which no application serves.")
        problems = chunking_problems(self.task, self.workers, self.batch)
        if problems:
            raise ConfigError(problems)

    @property
    def has_own_class(self) -> bool:
        """Whether the user brings a pipeline class."""
        return bool(self.model.pipeline_class or "pipeline_class" in self.instances)

    @property
    def has_own_pipeline(self) -> bool:
        """Whether the user brings a pipeline class, or trusts the model's own."""
        return self.has_own_class or bool(self.model.trust_remote_code)

    @property
    def task(self) -> tasks.Task:
        """The task."""
        own = {"has_own_pipeline": self.has_own_pipeline, "has_own_parameters": self.has_own_class}
        return tasks.resolve(self.task_name, **own)

    def __call__(
        self, dataset: Dataset, *, prediction_type: pa.DataType | Literal["infer"] | None = None, **inputs: Any
    ) -> Dataset:
        """The dataset with a column of predictions and one of errors; lazy, nothing runs yet.

        Args:
            dataset: Any Ray dataset.
            prediction_type: Arrow type of one result, for a pipeline of your own; `infer` runs the first rows to find
                it. Unset, the type of the task, which is inferred where no task file has it.
            **inputs: Input of the task: column of the dataset, e.g. `text="review"`, or a value for all rows, as a list
                or `{"constant": value}`. Unset, columns that are named like the inputs.

        Returns:
            The dataset's own columns, `prediction` (of the task's Arrow type; null where a row failed) and `error`
            (`struct<stage, type, message>`; null where it did not). Rows keep their order within each block.

        Raises:
            ConfigError: A column or input does not exist, or a column has the name of one that is added.
            ResourceError: The cluster cannot hold the workers.
            ModelLoadError: The model's name cannot be resolved.
            TypeError: `dataset` is something else, which `map` or `run` takes.
        """
        from ray_pipelines.data.stages import apply_stages, column_names

        mapped = self.mapped_inputs(column_names(dataset), inputs)
        return apply_stages(dataset, *self.setup_and_plan(dataset, mapped, prediction_type))

    def setup_and_plan(
        self,
        dataset: Dataset,
        mapped: Mapping[str, Any],
        prediction_type: pa.DataType | Literal["infer"] | None = None,
        has_items: bool = False,
    ) -> tuple[WorkerSetup, WorkerPlan]:
        """What workers load and what each gets, for a dataset or one like it.

        Args:
            dataset: Any Ray dataset.
            mapped: Of `mapped_inputs`.
            prediction_type: As in `__call__`.
            has_items: Whether rows are Python objects of this program (`mapping.py`).
        """
        from ray_pipelines.data.chunking import known_rows, plan_chunks
        from ray_pipelines.nodes import cluster_nodes

        nodes = cluster_nodes()
        num_rows = known_rows(dataset)
        plan = self.plan(nodes, num_rows)
        setup = self.worker_setup(mapped, plan, dataset, prediction_type, has_items)
        return setup, plan_chunks(dataset, setup, plan, nodes, num_rows)

    @overload
    def map(self, data: list[Any] | tuple[Any, ...], *, progress: bool = ...) -> list[Any]: ...
    @overload
    def map(self, data: Iterator[Any], *, progress: bool = ...) -> Iterator[Any]: ...
    @overload
    def map(self, data: Data, *, progress: bool = ..., **inputs: Any) -> Data: ...
    def map(self, data: Any, *, progress: bool = True, **inputs: Any) -> Any:
        """`data` with its predictions, computed on Ray's workers: as the kind of thing that `data` is, in its order.

            spec.map(["Great!", "Never again."])                 # list: results, and a RowError where one failed
            spec.map(frame, text="review")                       # a pandas frame: + columns prediction and error
            spec.map(load_dataset("imdb", split="test"))         # datasets.Dataset, likewise; so is a pyarrow.Table
            for result in spec.map(line for line in file): ...   # a generator: results while it goes on

        Connects to the Ray cluster of this machine or of `RAY_ADDRESS`, or starts a local one. `run` does the same in
        this process, without Ray; `spec(dataset)` adds the columns to a Ray dataset, lazily.

        Args:
            data: A list (or anything with length and index) of items as `run` takes them; an iterator of items; a
                `pandas.DataFrame`; a `pyarrow.Table` or `RecordBatchReader`; a `datasets.Dataset`, `DatasetDict`
                or `IterableDataset`; a Ray dataset. A column of pandas or Arrow is a list of items.
            progress: Show rows, speed and errors on standard error: a bar, or a line every ten seconds for a stream.
            **inputs: For what has columns, input of the task: column, as in `spec(dataset, text="review")`.

        Returns:
            A list of results for a list, a series for a series, an iterator for an iterator. For what has columns, the
            same with two more: `prediction` (null where a row failed) and `error` (`{stage, type, message}`, null where
            it did not).

        Raises:
            ConfigError: A column or input does not exist, or a column has the name of one that is added.
            ResourceError: The cluster cannot hold the workers.
            JobError: A model could not be loaded, or Ray gave up.
            TypeError: `data` is none of these, or a single string or dictionary.
        """
        from ray_pipelines.data.mapping import map_data

        return map_data(self, data, inputs, progress)

    @overload
    def run(self, items: Sequence[Any], on_error: Literal["return", "raise"] = ...) -> list[Any]: ...
    @overload
    def run(self, items: Iterator[Any], on_error: Literal["return", "raise"] = ...) -> Iterator[Any]: ...
    def run(self, items: Any, on_error: Literal["return", "raise"] = "return") -> Any:
        """One result per item, in input order, in this process and without Ray.

        The model is loaded at the first call and kept.

        Args:
            items: A list, a column, a generator, or a dataset with length and index; each item as `transformers` takes
                it: a string, a dictionary of inputs (whose other keys are passed over), a PIL image, an array, …
            on_error: What becomes of an item that fails: a `RowError` in its place, or a raised one.

        Returns:
            A list for a list, tuple or column, an iterator for anything else that is iterated. A result has the shape
            that `prediction` has, as Python objects (`ray-pipelines tasks NAME` shows it).

        Raises:
            RowError: An item failed, and `on_error` is `raise`.
            ModelLoadError: The model cannot be loaded.
            TypeError: `items` is a single string or dictionary, or a table, which `map` takes.
        """
        items = iterable_of(items)
        if on_error not in ("return", "raise"):
            raise ValueError(f'on_error: expected "return" or "raise"; got {on_error!r}.')
        results = self._run(items, on_error)
        return list(results) if isinstance(items, list | tuple) else results

    def agreement(self, items: Sequence[Any]) -> Agreement:
        """How far results agree with those of the model in float32, without anything that `optimize` asks for.

        Loads the model a second time, in this process.

        Args:
            items: As `run` takes them; a few are enough.
        """
        from ray_pipelines.report.agreement import Agreement

        instances = dict(self.instances)
        if "model" in instances:
            instances["model"] = copy.deepcopy(instances["model"])
        plain = dataclasses.replace(self, model=in_float32(self.model), optimize=OptimizeConfig(), instances=instances)
        return Agreement.of(self.run(list(items)), plain.run(list(items)))

    def results_of(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Any]:
        """As `run`, of rows that hold the task's inputs by name."""
        runner = self._runner()
        return runner.run(runner.steps.item_of_fields(fields) for fields in rows)

    def _run(self, items: Iterable[Any], on_error: str) -> Iterator[Any]:
        runner = self._runner()
        for result in runner.run(runner.steps.item_of_input(item) for item in items):
            if on_error == "raise" and isinstance(result, RowError):
                raise result
            yield result

    def _runner(self) -> Runner:
        runner: Runner | None = self.__dict__.get("_loaded")
        if runner is None:
            from ray_pipelines.engine.process import without_collection

            with without_collection():
                runner = self._load()
            self.__dict__["_loaded"] = runner
        return runner

    def _load(self) -> Runner:
        from ray_pipelines.engine.load import load_runner

        task = self.task
        parameters = tasks.validate_parameters(task, self.parameters)
        return load_runner(task, self.pinned(), parameters, self.batch, self.limits, self.seed, self.optimize)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in NOT_SENT}

    @property
    def rows_per_call(self) -> int:
        """Rows that a worker is handed at once."""
        return self.batch.rows_per_call

    def result_types(self) -> dict[str, pa.DataType | None]:
        """Column of results: Arrow type of one result, or None where it must be found on the first rows."""
        task = self.task
        if task.result_type is None:
            return {self.output_column: None}
        return {self.output_column: task.result_type(tasks.validate_parameters(task, self.parameters))}

    def result_of(self, results: Mapping[str, Any]) -> Any:
        """What `run` gives of a row, of its columns of results."""
        return results[self.output_column]

    def columns_of(self, mapped: Mapping[str, Any]) -> list[str]:
        """The columns that are inputs, of `mapped_inputs`."""
        return sorted(set(split_inputs(mapped)[0].values()))

    def inputs_of_items(self) -> dict[str, Any]:
        """In place of `mapped_inputs` where a row is what `columns_of_item` gives: its columns are fields."""
        return {}

    def columns_of_item(self, item: Any) -> dict[str, Any]:
        """An item, as `run` takes it, as a row whose columns are Python objects."""
        from ray_pipelines.data.workers import ITEM_COLUMN

        if self.task.result_type is None or not self.task.inputs:
            return {ITEM_COLUMN: item}
        return self.task.fields_of(item)

    def mapped_inputs(self, columns: Sequence[str] | None, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The mapping of inputs to columns or constants, checked against the columns where they are known.

        Raises:
            ConfigError: A column or input does not exist, or a column has the name of one that is added.
        """
        from ray_pipelines.data.workers import ERROR_COLUMN

        task = self.task
        if not inputs:
            inputs = {f.name: f.name for f in task.inputs if f.required or (columns and f.name in columns)}
        problems = input_problems(task, inputs, columns)
        for added in (self.output_column, ERROR_COLUMN):
            if columns is not None and added in columns:
                problems.append(
                    f'output_column: the dataset already has a column "{added}". Rename it, or choose another '
                    "output_column."
                )
        if problems:
            raise ConfigError(problems)
        return dict(inputs)

    def plan(self, nodes: Sequence[Node], num_rows: int | None = None) -> WorkerPlan:
        """What the workers get on these nodes for so many rows (None: unknown), or which application has them.

        Raises:
            ConfigError: The task cannot be split, or the application does not exist, run, or have the task.
            ResourceError: The cluster cannot hold the plan.
        """
        if self.workers.serve is not None:
            from ray_pipelines.data.serve_app import plan_replicas

            return plan_replicas(self.workers, self.task.name, nodes)
        from ray_pipelines.data.resources import plan_workers

        return plan_workers(self.workers, self.planned_task(), nodes, self.pinned().num_bytes, num_rows)

    def pinned(self) -> PinnedModel:
        """The model with its names pinned to commits, as they are when this is asked for first.

        Raises:
            ConfigError: A name looks like a path, but there is no such folder.
            ModelLoadError: The hub does not have a name, or cannot be reached.
        """
        pinned: PinnedModel | None = self.__dict__.get("_pinned")
        if pinned is None:
            from ray_pipelines.engine.hub import resolve_model

            pinned = self.__dict__["_pinned"] = resolve_model(self.task.name, self.model, self.instances)
        return pinned

    def planned_task(self) -> tasks.Task:
        """The task, with `chunked` known of a pipeline of the user's own; loads transformers for it.

        Raises:
            ConfigError: The pipeline cannot be imported, or makes no chunks, which `workers.chunking` wants to spread.
        """
        if self.task.chunked is not None:
            return self.task
        from ray_pipelines.engine.load import is_chunked

        task = dataclasses.replace(self.task, chunked=is_chunked(self.task, self.model, self.instances))
        problems = chunking_problems(task, self.workers, self.batch)
        if problems:
            raise ConfigError(problems)
        return task

    def worker_setup(
        self,
        inputs: Mapping[str, Any],
        plan: WorkerPlan,
        dataset: Dataset,
        prediction_type: pa.DataType | Literal["infer"] | None = None,
        has_items: bool = False,
    ) -> WorkerSetup:
        """What the workers need, with the model pinned to a commit and the type of results known.

        Args:
            inputs: Input of the task: column, or a value for all rows.
            plan: What each worker gets.
            dataset: The dataset, of which the first rows are run if the type of results must be inferred.
            prediction_type: As in `__call__`.
            has_items: Whether rows are Python objects of this program (`mapping.py`).

        Raises:
            ConfigError: The type must be inferred and cannot be.
            ModelLoadError: The model's name cannot be resolved.
        """
        from ray_pipelines.data.workers import ITEM_COLUMN, WorkerSetup

        if self.workers.serve is not None and prediction_type is not None:
            raise ConfigError("prediction_type: excludes workers.serve, whose results have the type of the task.")
        columns, constants = split_inputs(inputs)
        pinned = self.pinned()
        instances = None
        if self.instances:
            import ray

            instances = ray.put(dict(self.instances))
            pinned = dataclasses.replace(pinned, instances={})
        task = self.task
        known_type = None
        if prediction_type is None and task.result_type is not None:
            known_type = self.result_types()[self.output_column]
        elif prediction_type != "infer":
            known_type = prediction_type
        setup = WorkerSetup(
            task_name=self.task.name,
            has_own_pipeline=self.has_own_pipeline,
            model=pinned,
            instances=instances,
            parameters=dict(self.parameters),
            inputs=columns,
            constants=constants,
            output_column=self.output_column,
            result_type=known_type,
            batch=self.batch,
            optimize=self.optimize,
            limits=self.limits,
            filesystem=self.filesystem.resolved(),
            seed=self.seed,
            device=self.model.device if self.model.device is not None else ("cuda:0" if plan.num_gpus else "cpu"),
            num_threads=plan.num_threads,
            num_neighbours=plan.workers_per_node,
            timeout_s=self.workers.timeout_s,
            results_as_they_come=prediction_type is not None or task.result_type is None,
            application=self._application(pinned),
            has_items=has_items,
            dropped_columns=(ITEM_COLUMN,) if has_items else (),
        )
        if known_type is None:
            from ray_pipelines.data.stages import inferred_type

            setup = dataclasses.replace(setup, result_type=inferred_type(dataset, setup, plan))
        return setup

    def _application(self, pinned: PinnedModel) -> ApplicationSetup | None:
        """The application that has the rows, which must have the model.

        Raises:
            ConfigError: It has another.
        """
        name = self.workers.serve
        if name is None:
            return None
        from ray_pipelines.data.serve_app import check_identity
        from ray_pipelines.data.workers import ApplicationSetup
        from ray_pipelines.engine.identity import digest_of, model_identity

        if self.batch != BatchConfig():
            logger.warning("batch: has no effect, as %s has its own.", name)
        identity = model_identity(pinned, self.optimize)
        check_identity(name, identity)
        return ApplicationSetup(name, digest_of(identity), self.workers.serve_wait_s)
