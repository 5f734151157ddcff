"""Several specifications as one, over one dataset: `several.py` says how they share a worker."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, overload

from pydantic import ValidationError

from ray_pipelines.config import ERROR_IS_A_COLUMN, WorkersConfig, of_one_task
from ray_pipelines.data.items import iterable_of
from ray_pipelines.data.pipeline import PipelineSpec
from ray_pipelines.errors import ConfigError, RowError
from ray_pipelines.validation import describe_validation_error

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

    from ray_pipelines.data.resources import WorkerPlan
    from ray_pipelines.data.several import SeveralSetup
    from ray_pipelines.nodes import Node

__all__ = ["PipelinesSpec", "pipelines"]

ITEMS_AT_A_TIME = 512

Data = TypeVar("Data")


@dataclass(frozen=True)
class PipelinesSpec:
    """Several tasks of the same rows; made by `pipelines()`.

    Attributes:
        specs: Column of results: its task, model and settings.
        workers: Workers, each of which holds all of the models.
    """

    specs: Mapping[str, PipelineSpec]
    workers: WorkersConfig = field(default_factory=WorkersConfig)

    def __post_init__(self) -> None:
        problems = _problems(self.specs, self.workers)
        if problems:
            raise ConfigError(problems)

    def __call__(self, dataset: Dataset, **inputs: Any) -> Dataset:
        """The dataset with a column of results for each task, and one of errors; lazy, nothing runs yet.

            both(dataset, text="review")                                # of each task that has this input
            both(dataset, text="review", entities={"text": "title"})    # but this task looks at another column

        Args:
            dataset: Any Ray dataset.
            **inputs: Input: column, or a value for all rows as a list or `{"constant": value}`; under the name of a
                task, a mapping of its own inputs. Unset, columns that are named like the inputs.

        Returns:
            The dataset's own columns, one for each task, and `error`, which names the task that failed. Where it is not
            null, all results of the row are.

        Raises:
            ConfigError: A column or input does not exist, or a column has the name of one that is added.
            ResourceError: The cluster cannot hold the workers.
            ModelLoadError: A model's name cannot be resolved.
        """
        from ray_pipelines.data.stages import apply_stages, column_names

        mapped = self.mapped_inputs(column_names(dataset), inputs)
        return apply_stages(dataset, *self.setup_and_plan(dataset, mapped))

    def setup_and_plan(
        self, dataset: Dataset, mapped: Mapping[str, Mapping[str, Any]], *, has_items: bool = False
    ) -> tuple[SeveralSetup, WorkerPlan]:
        """What workers load and what each gets; arguments as those of `PipelineSpec.setup_and_plan`."""
        from ray_pipelines.data.chunking import known_rows, plan_chunks
        from ray_pipelines.nodes import cluster_nodes

        nodes = cluster_nodes()
        num_rows = known_rows(dataset)
        plan = self.plan(nodes, num_rows)
        setup = self.worker_setup(mapped, plan, dataset, has_items=has_items)
        return setup, plan_chunks(dataset, setup, plan, nodes, num_rows)

    @overload
    def map(self, data: list[Any] | tuple[Any, ...], *, progress: bool = ...) -> list[dict[str, Any] | RowError]: ...
    @overload
    def map(self, data: Iterator[Any], *, progress: bool = ...) -> Iterator[dict[str, Any] | RowError]: ...
    @overload
    def map(self, data: Data, *, progress: bool = ..., **inputs: Any) -> Data: ...
    def map(self, data: Any, *, progress: bool = True, **inputs: Any) -> Any:
        """`data` with the results of all tasks, computed on Ray's workers: as the kind of thing that `data` is.

            both.map(["Great!", "Never again."])      # list: {"sentiment": …, "entities": …} each, or a RowError
            both.map(frame, text="review")            # a pandas frame: + columns sentiment, entities and error

        Args:
            data: As `PipelineSpec.map` takes it.
            progress: As there.
            **inputs: For what has columns, as in `both(dataset, text="review")`.

        Returns:
            As `PipelineSpec.map`, with a column for each task, or a dictionary of them for an item.

        Raises:
            ConfigError: A column or input does not exist, or a column has the name of one that is added.
            ResourceError: The cluster cannot hold the workers.
            JobError: A model could not be loaded, or Ray gave up.
            TypeError: `data` is none of these, or a single string or dictionary.
        """
        from ray_pipelines.data.mapping import map_data

        return map_data(self, data, inputs, progress)

    @overload
    def run(self, items: list[Any] | tuple[Any, ...]) -> list[dict[str, Any] | RowError]: ...
    @overload
    def run(self, items: Iterator[Any]) -> Iterator[dict[str, Any] | RowError]: ...
    def run(self, items: Any) -> Any:
        """The results of each item by task, in input order, in this process and without Ray.

        Args:
            items: A list or an iterator of items, each as all of the tasks take it, or a dictionary of inputs, of which
                each task takes its own.

        Returns:
            A list for a list, tuple or column, an iterator for an iterator; a `RowError` in place of an item that
            failed.

        Raises:
            TypeError: `items` is a single string or dictionary, or a table, which `map` takes.
        """
        items = iterable_of(items)
        results = self._run(items)
        return list(results) if isinstance(items, list | tuple) else results

    def _run(self, items: Iterable[Any]) -> Iterator[dict[str, Any] | RowError]:
        from ray_pipelines.data.several import of_task

        iterator = iter(items)
        while block := list(islice(iterator, ITEMS_AT_A_TIME)):
            rows = [self.columns_of_item(item) for item in block]
            found = {
                name: spec.results_of([own_fields(row, spec) for row in rows]) for name, spec in self.specs.items()
            }
            for row in zip(*found.values(), strict=True):
                results = dict(zip(found, row, strict=True))
                errors = (of_task(name, one) for name, one in results.items() if isinstance(one, RowError))
                yield next(errors, results)

    def mapped_inputs(self, columns: Sequence[str] | None, inputs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """For each task the mapping of its inputs to columns or constants, checked against the columns.

        Raises:
            ConfigError: A column or input does not exist, or a column has the name of one that is added.
        """
        shared = {name: value for name, value in inputs.items() if name not in self.specs}
        problems: list[str] = []
        mapped: dict[str, dict[str, Any]] = {}
        fields = {name: {f.name for f in spec.task.inputs} for name, spec in self.specs.items()}
        for name, spec in self.specs.items():
            own = {**{key: value for key, value in shared.items() if key in fields[name]}, **inputs.get(name, {})}
            try:
                mapped[name] = dataclasses.replace(spec, output_column=name).mapped_inputs(columns, own)
            except ConfigError as error:
                problems += [f"{name}: {problem}" for problem in error.problems]
        of_none = [key for key in shared if not any(key in known for known in fields.values())]
        problems += [f"{key}: none of the tasks has this input." for key in of_none]
        if problems:
            raise ConfigError(problems)
        return mapped

    @property
    def rows_per_call(self) -> int:
        """Rows that a worker is handed at once."""
        return max(spec.rows_per_call for spec in self.specs.values())

    def result_types(self) -> dict[str, pa.DataType | None]:
        """Column of results: Arrow type of one result."""
        return {name: spec.result_types()[spec.output_column] for name, spec in self.specs.items()}

    def result_of(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """What `run` gives of a row, of its columns of results."""
        return dict(results)

    def columns_of(self, mapped: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """The columns that are inputs, of `mapped_inputs`."""
        return sorted({column for name, spec in self.specs.items() for column in spec.columns_of(mapped[name])})

    def inputs_of_items(self) -> dict[str, dict[str, Any]]:
        """In place of `mapped_inputs` where a row is what `columns_of_item` gives."""
        return {name: {field.name: field.name for field in spec.task.inputs} for name, spec in self.specs.items()}

    def columns_of_item(self, item: Any) -> dict[str, Any]:
        """An item, as `run` takes it, as a row whose columns are Python objects."""
        tasks = [spec.task for spec in self.specs.values()]
        if isinstance(item, dict) and any(task.inputs[0].name in item for task in tasks):
            return item
        return {name: value for task in tasks for name, value in task.fields_of(item).items()}

    def plan(self, nodes: Sequence[Node], num_rows: int | None = None) -> WorkerPlan:
        """What the workers get on these nodes for so many rows (None: unknown).

        Raises:
            ResourceError: The cluster cannot hold the plan.
        """
        from ray_pipelines.data.resources import plan_workers

        fused = self.workers.model_copy(update={"stages": "fused", "chunking": "in_worker"})
        any_task = next(iter(self.specs.values())).task
        sizes = [spec.pinned().num_bytes for spec in self.specs.values()]
        model_bytes = sum(size or 0 for size in sizes) if all(sizes) else None
        plan = plan_workers(fused, dataclasses.replace(any_task, chunked=False), nodes, model_bytes, num_rows)
        return dataclasses.replace(plan, num_models=len(self.specs))

    def worker_setup(
        self, inputs: Mapping[str, Mapping[str, Any]], plan: WorkerPlan, dataset: Dataset, *, has_items: bool = False
    ) -> SeveralSetup:
        """What the workers need, with all models pinned; arguments as those of `PipelineSpec.worker_setup`.

        Raises:
            ModelLoadError: A model's name cannot be resolved.
        """
        from ray_pipelines.data.several import SeveralSetup
        from ray_pipelines.data.workers import ITEM_COLUMN, WorkerSetup

        setups: dict[str, WorkerSetup] = {}
        for name, spec in self.specs.items():
            alone = dataclasses.replace(spec, output_column=name, workers=self.workers)
            setups[name] = alone.worker_setup(inputs[name], plan, dataset, has_items=has_items)
        return SeveralSetup(setups, dropped_columns=(ITEM_COLUMN,) if has_items else (), has_items=has_items)


def pipelines(
    specs: Mapping[str, PipelineSpec], workers: WorkersConfig | Mapping[str, Any] | None = None
) -> PipelinesSpec:
    """Several tasks of the same rows as one specification: rows are fetched and decoded once for all of them.

        both = rp.pipelines({"sentiment": rp.pipeline("text-classification"), "entities": rp.pipeline("ner")})
        dataset = both(ray.data.read_parquet("s3://bucket/in"), text="review")    # + sentiment, entities, error

    Args:
        specs: Column of results: what `pipeline()` gives, without anything about workers.
        workers: Workers, as in a job file, e.g. `{"num_gpus": 1}`; each holds all of the models.

    Raises:
        ConfigError: One line per problem: specifications that cannot share a worker, or a wrong setting.
    """
    try:
        config = workers if isinstance(workers, WorkersConfig) else WorkersConfig.model_validate(dict(workers or {}))
    except ValidationError as error:
        raise ConfigError(describe_validation_error(error, "workers", WorkersConfig)) from None
    if not isinstance(specs, Mapping) or not all(isinstance(spec, PipelineSpec) for spec in specs.values()):
        raise ConfigError("specs: expected a mapping of names to what rp.pipeline() gives.")
    return PipelinesSpec(dict(specs), config)


def own_fields(row: Mapping[str, Any], spec: PipelineSpec) -> dict[str, Any]:
    """The fields of a row that are inputs of this task."""
    return {field.name: row[field.name] for field in spec.task.inputs if field.name in row}


def _problems(specs: Mapping[str, PipelineSpec], workers: WorkersConfig) -> list[str]:
    """Why specifications cannot share a worker."""
    if not specs:
        return ["tasks: expected at least one task; got none."]
    problems = [
        f"workers.{name}: excludes several tasks in one worker. Drop it, or run a job for each task."
        for name in of_one_task(workers)
    ]
    defaults = WorkersConfig()
    first = next(iter(specs.values()))
    for name, spec in specs.items():
        if name == "error":
            problems.append(ERROR_IS_A_COLUMN)
        if spec.task.result_type is None:
            problems.append(
                f"tasks.{name}: expected a task whose results have a known type; got {spec.task_name}, which only its "
                "pipeline knows. Run it by itself."
            )
        if spec.workers not in (defaults, workers):
            problems.append(f"tasks.{name}: has workers of its own. Give them to pipelines(…, workers=…) instead.")
        for what in ("limits", "filesystem"):
            if getattr(spec, what) != getattr(first, what):
                problems.append(f"tasks.{name}: expected the same {what} in all tasks, which share what is decoded.")
    return problems
