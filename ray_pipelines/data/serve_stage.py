"""The stage of a dataset whose rows go to a Serve application: one small actor that sends and receives."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from ray.data import ActorPoolStrategy, Dataset

from ray_pipelines import tasks
from ray_pipelines.arrow import ERROR_TYPE, errors_to_arrow
from ray_pipelines.data.fetch import MEDIA, fetched
from ray_pipelines.data.serve_app import ServeApplication
from ray_pipelines.data.serve_calls import joined
from ray_pipelines.data.serve_client import Client
from ray_pipelines.data.workers import READ_ERROR_COLUMN, WorkerSetup, counted, fields_of_table, with_columns
from ray_pipelines.engine.exchange import RowBatch
from ray_pipelines.errors import RowError

if TYPE_CHECKING:
    from ray_pipelines.data.resources import WorkerPlan

__all__ = ["ServeWorker", "batch_of_table", "serve_stage"]


def serve_stage(dataset: Dataset, setup: WorkerSetup, plan: WorkerPlan) -> Dataset:
    """The dataset with the predictions and errors that an application's replicas make."""
    return dataset.map_batches(
        ServeWorker,
        batch_size=setup.batch.rows_per_call,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            size=1, max_tasks_in_flight_per_actor=2 * plan.num_calls, max_concurrent_calls_per_actor=plan.num_calls
        ),
        num_cpus=plan.num_cpus,
        fn_constructor_kwargs={"setup": setup},
    )


class ServeWorker:
    """Sends rows to an application; holds no model.

    Args:
        setup: The job's side of the pipeline.
    """

    def __init__(self, setup: WorkerSetup) -> None:
        assert setup.application is not None
        self.setup = setup
        application = setup.application
        self._client = Client(ServeApplication(application.name), application.wait_s, setup.timeout_s)

    async def __call__(self, table: pa.Table) -> pa.Table:
        """The table with its predictions and errors."""
        begun_s = time.time()
        batch, rows, failed = batch_of_table(table, self.setup)
        result_type = self.setup.result_type
        answers = await self._client.run(batch, result_type)
        answers.counters.begun_s = begun_s
        results, errors = answers.results, answers.errors
        if failed:
            order = [0] * table.num_rows
            for place, row in enumerate([*rows, *failed]):
                order[row] = place
            places = pa.array(order, type=pa.int64())
            results = joined([results, pa.nulls(len(failed), result_type)], result_type).take(places)
            errors = joined([errors, errors_to_arrow(list(failed.values()))], ERROR_TYPE).take(places)
        return counted(with_columns(table, results, errors, self.setup), answers.counters, self.setup)


def batch_of_table(table: pa.Table, setup: WorkerSetup) -> tuple[RowBatch, list[int], dict[int, RowError]]:
    """The rows of a table as a message, the places of these rows, and the errors of those that cannot be sent.

    Columns go as they are. Media that rows name by URI go as bytes, fetched here with the job's credentials.
    """
    assert setup.application is not None
    task = tasks.get(setup.task_name)
    modalities = {each.name: each.modality for each in task.inputs}
    inputs = {} if setup.has_items else setup.inputs
    plain = {name: column for name, column in inputs.items() if _is_plain(table.schema.field(column).type)}
    others = {name: column for name, column in inputs.items() if name not in plain}
    media = [name for name, modality in modalities.items() if modality in MEDIA]
    may_name = any(
        name in setup.constants or (name in plain and not _is_binary(table.schema.field(plain[name]).type))
        for name in media
    )
    failed: dict[int, RowError] = {}
    values: dict[int, dict[str, Any]] = {}
    if others or may_name or setup.prepared or setup.has_items:
        plain = {name: column for name, column in plain.items() if name not in setup.prepared}
        made = list(fields_of_table(table, setup))
        for row, (before, after) in enumerate(
            zip(made, fetched(made, modalities, setup.limits, setup.filesystem), strict=True)
        ):
            if isinstance(after, RowError):
                failed[row] = after
                continue
            assert not isinstance(before, RowError)
            values[row] = {
                name: value
                for name, value in after.items()
                if value is not before[name] or not (name in plain or name in setup.constants)
            }
    elif READ_ERROR_COLUMN in table.column_names:
        read = table[READ_ERROR_COLUMN].to_pylist()
        failed = {row: RowError(**error) for row, error in enumerate(read) if error is not None}
    columns = pa.table({name: table[column] for name, column in plain.items()})
    application = setup.application
    batch = RowBatch(
        task=setup.task_name,
        identity=application.identity,
        parameters=dict(setup.parameters),
        seed=setup.seed,
        limits=setup.limits,
        num_rows=table.num_rows,
        columns=columns,
        constants=dict(setup.constants),
        values=values,
    )
    rows = [row for row in range(table.num_rows) if row not in failed]
    return (batch.take(rows, is_alone=False) if failed else batch), rows, failed


def _is_binary(column: pa.DataType) -> bool:
    return bool(pa.types.is_binary(column) or pa.types.is_large_binary(column))


def _is_plain(column: pa.DataType) -> bool:
    """Whether a process that knows nothing of Ray Data's own types can read a column."""
    if isinstance(column, pa.ExtensionType) or pa.types.is_null(column):
        return False
    return all(_is_plain(column.field(index).type) for index in range(column.num_fields))
