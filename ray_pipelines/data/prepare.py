"""The CPU stage before all others, for a task that makes one of its inputs from another, such as words by OCR."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipelines import tasks
from ray_pipelines.arrow import errors_to_arrow, set_column
from ray_pipelines.data.workers import READ_ERROR_COLUMN, WorkerSetup, items_of_table, results_of_rows
from ray_pipelines.errors import RowError, attempt

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["prepare_dataset", "prepare_table"]


def prepare_dataset(dataset: Dataset, setup: WorkerSetup, on_cpu: Mapping[str, Any]) -> tuple[Dataset, WorkerSetup]:
    """The dataset with a hidden column of what the task prepares, and the setup of the stages that read it.

    Both are as they were where the task prepares nothing, the input is a constant, what it is made of is missing, or
    rows are Python objects: the worker itself makes the input then.

    Args:
        dataset: Rows as they were read.
        setup: The pipeline.
        on_cpu: Resources of the stage.
    """
    preparation = tasks.resolve(setup.task_name, has_own_pipeline=setup.has_own_pipeline).preparation
    if preparation is None or preparation.field in setup.constants or preparation.source not in setup.inputs:
        return dataset, setup
    if setup.has_items:
        return dataset, setup
    dataset = dataset.map_batches(
        prepare_table,
        batch_size=setup.batch.rows_per_call,
        batch_format="pyarrow",
        fn_kwargs={"setup": setup},
        **on_cpu,
    )
    column = preparation.column
    dropped = (*setup.dropped_columns, column)
    return dataset, dataclasses.replace(setup, prepared={preparation.field: column}, dropped_columns=dropped)


def prepare_table(table: pa.Table, setup: WorkerSetup) -> pa.Table:
    """The table with the prepared column, and the errors of rows that could not be decoded or prepared.

    Rows that bring a value of their own are not touched; all are null where the model has no use for the input.

    Args:
        table: Rows as they were read.
        setup: The pipeline; loaded once per process, without weights.
    """
    runner = setup.load_without_weights()
    preparation = runner.steps.task.preparation
    assert preparation is not None
    own = setup.inputs.get(preparation.field)
    is_missing = pc.is_null(table[own]).to_pylist() if own is not None else [True] * table.num_rows
    if not preparation.is_needed(runner.steps.pipe):
        is_missing = [False] * table.num_rows
    missing = table.filter(pa.array(is_missing, type=pa.bool_()))

    def run(rows: Sequence[int]) -> Iterator[Any]:
        for place, item in enumerate(items_of_table(missing, setup, runner, rows)):
            if isinstance(item, RowError):
                yield item
                continue
            make = partial(preparation.value, runner.steps.pipe, item)
            yield attempt("preprocess", partial(runner.watch.run, "preprocess", [place], make))

    made = iter(results_of_rows(runner, setup.known_by(missing), "prepare", run))
    values = [next(made) if is_row_missing else None for is_row_missing in is_missing]
    errors = [value if isinstance(value, RowError) else None for value in values]
    if READ_ERROR_COLUMN in table.column_names:
        read = table[READ_ERROR_COLUMN].to_pylist()
        errors = [RowError(**before) if before else error for before, error in zip(read, errors, strict=True)]
    column = pa.array([None if isinstance(value, RowError) else value for value in values], type=preparation.type())
    table = set_column(table, preparation.column, column)
    return set_column(table, READ_ERROR_COLUMN, errors_to_arrow(errors))
