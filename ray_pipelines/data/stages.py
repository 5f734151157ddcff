"""A pipeline as stages of a Ray dataset: functions from dataset to dataset, on Ray Data's own lazy plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
from ray.data import ActorPoolStrategy, Dataset
from ray.data.expressions import monotonically_increasing_id

from ray_pipelines.data.chunks import ROW_ID_COLUMN, ChunkWorker, ImplodeWorker, explode_table
from ray_pipelines.data.prepare import prepare_dataset
from ray_pipelines.data.resources import TASK_CPUS
from ray_pipelines.data.several import AnySetup, worker_class
from ray_pipelines.data.workers import (
    ForwardWorker,
    PipelineWorker,
    WorkerSetup,
    postprocess_table,
    preprocess_table,
)
from ray_pipelines.errors import ConfigError, RowError, attempt

if TYPE_CHECKING:
    from ray_pipelines.data.resources import WorkerPlan

__all__ = ["apply_stages", "column_names", "inferred_type"]

SAMPLE_ROWS = 16


def column_names(dataset: Dataset) -> list[str] | None:
    """The columns of a dataset; None where Ray does not know them.

    Raises:
        TypeError: It is no dataset of Ray.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"dataset: expected a ray.data.Dataset; got a {type(dataset).__name__}. Items of this program go "
            "through run(items), here and now, or map(items), on the cluster."
        )
    schema = dataset.schema()
    return list(schema.names) if schema is not None else None


def apply_stages(dataset: Dataset, setup: AnySetup, plan: WorkerPlan) -> Dataset:
    """The dataset through the pipeline's stages: one fused stage; CPU, forward and CPU stages; or those of chunks."""
    # Ray fuses a stage into an actor stage of equal resources, which would make the split one again.
    num_cpus = TASK_CPUS if plan.num_gpus or plan.num_cpus != TASK_CPUS else TASK_CPUS - 0.01
    if isinstance(setup, WorkerSetup):
        dataset, setup = prepare_dataset(dataset, setup, {"num_cpus": num_cpus})
    if plan.application is not None and isinstance(setup, WorkerSetup):
        from ray_pipelines.data.serve_stage import serve_stage

        return serve_stage(dataset, setup, plan)
    workers: dict[str, Any] = {
        # The next block is fetched, and the last one sent, while a GPU computes. On a CPU the second thread of a worker
        # would have one OpenMP thread of its own, and the forward ran on one core.
        "compute": ActorPoolStrategy(
            min_size=plan.min_workers,
            max_size=plan.max_workers,
            max_tasks_in_flight_per_actor=plan.tasks_in_flight,
            max_concurrent_calls_per_actor=2 if plan.num_gpus else 1,
        ),
        **plan.ray_options,
        "fn_constructor_kwargs": {"setup": setup},
    }
    rows_per_call = plan.rows_per_call or setup.rows_per_call
    window: dict[str, Any] = {"batch_size": rows_per_call, "batch_format": "pyarrow"}
    chunks = plan.chunks
    # A block is never divided among workers or tasks.
    if chunks is not None and chunks.mode == "groupby":
        dataset = dataset.with_column(ROW_ID_COLUMN, monotonically_increasing_id())
        dataset = dataset.repartition(target_num_rows_per_block=chunks.rows_per_task)
    elif plan.rows_per_call is not None:
        dataset = dataset.repartition(target_num_rows_per_block=rows_per_call)
    if plan.stages == "fused" and (chunks is None or chunks.mode == "in_worker"):
        predicted = dataset.map_batches(worker_class(setup), **window, **workers)
        if setup.is_counted:
            return predicted
        # Done parts of a large block go on at once (Ray makes both one operator); the blocks of a job are its files.
        return predicted.repartition(target_num_rows_per_block=rows_per_call)
    assert isinstance(setup, WorkerSetup)
    on_cpu: dict[str, Any] = {"batch_format": "pyarrow", "fn_kwargs": {"setup": setup}, "num_cpus": num_cpus}
    if chunks is not None and chunks.mode == "groupby":
        return (
            # With the resources of a repartition, so that Ray makes both one task.
            dataset.map_batches(explode_table, batch_size=None, batch_format="pyarrow", fn_kwargs={"setup": setup})
            .repartition(target_num_rows_per_block=chunks.window_chunks)
            .map_batches(ChunkWorker, batch_size=chunks.window_chunks, batch_format="pyarrow", **workers)
            .repartition(chunks.num_partitions, keys=[ROW_ID_COLUMN])
            # Forwards are done by then, so that no CPU is set aside for these.
            .map_batches(
                ImplodeWorker,
                batch_size=None,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(size=chunks.num_imploders),
                num_cpus=0,
                **chunks.placement,
                fn_constructor_kwargs={"setup": setup},
            )
        )
    return (
        dataset.map_batches(preprocess_table, batch_size=rows_per_call, **on_cpu)
        .map_batches(ForwardWorker, **window, **workers)
        .map_batches(postprocess_table, batch_size=rows_per_call, **on_cpu)
    )


class TypeSampler(PipelineWorker):
    """Finds the Arrow type of a pipeline's results: one row with the type, or with the reason why there is none."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """The serialised schema of the results of `table`, or a reason."""
        from ray_pipelines.engine.plain import type_of_sample

        rows = self._results(table)
        results = [row for row in rows if not isinstance(row, RowError)]
        found = attempt("postprocess", lambda: type_of_sample(results)) if results else (rows or [None])[0]
        schema = None if found is None or isinstance(found, RowError) else pa.schema([("result", found)]).serialize()
        reason = str(found) if isinstance(found, RowError) else None
        return pa.table(
            {
                "schema": pa.array([schema.to_pybytes() if schema is not None else None], type=pa.binary()),
                "reason": pa.array([reason], type=pa.string()),
            }
        )


def inferred_type(dataset: Dataset, setup: WorkerSetup, plan: WorkerPlan) -> pa.DataType:
    """The Arrow type of the results of the first rows, which are run on a worker to find it.

    Raises:
        ConfigError: No row gave a result, or the results have no common type.
    """
    sample = dataset.limit(SAMPLE_ROWS).map_batches(
        TypeSampler,
        batch_size=SAMPLE_ROWS,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=1),
        **plan.ray_options,
        fn_constructor_kwargs={"setup": setup},
    )
    rows = sample.take_all()
    found = [row["schema"] for row in rows if row["schema"] is not None]
    if not found:
        reason = next((row["reason"] for row in rows if row["reason"]), "there are no rows")
        raise ConfigError(f"prediction_type: cannot be inferred from the first rows: {reason}. Pass the Arrow type.")
    return pa.ipc.read_schema(pa.py_buffer(found[0])).field("result").type
