"""The parity certificate: rows that were written, computed again by the plain pipeline, alone and in float32.

It runs when the job is done, on one worker of the same size, over rows that `sampling.py` has chosen. What is compared
is what was written, not what a second run would give.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ray_pipelines.arrow import results_to_arrow
from ray_pipelines.data.formats import ROW_COLUMN, SOURCE_COLUMN
from ray_pipelines.data.sampling import place_of, predictions_of, read_places, rows_to_verify
from ray_pipelines.data.workers import items_of_table
from ray_pipelines.errors import RowError, attempt
from ray_pipelines.optimize import OptimizeConfig, in_float32
from ray_pipelines.report.agreement import Agreement

if TYPE_CHECKING:
    from ray_pipelines.data.read import Input
    from ray_pipelines.data.resources import WorkerPlan
    from ray_pipelines.data.several import AnySetup
    from ray_pipelines.data.workers import WorkerSetup

__all__ = ["agreement_of_rows", "certify"]

REFERENCE = "transformers alone, float32"


def certify(
    count: int, samples: Sequence[Mapping[str, Any]], source: Input, setup: AnySetup, plan: WorkerPlan
) -> Agreement | None:
    """How far `count` results that were written agree with the plain pipeline.

    Args:
        count: How many rows to compare.
        samples: Rows with results, chosen while they were written.
        source: The input, of which they are read again.
        setup: What the workers have loaded.
        plan: What one of them had.
    """
    import ray

    chosen = {place_of(sample): sample for sample in rows_to_verify(samples, count)}
    inputs, results = [], []
    for row in read_places(source, chosen):
        inputs.append(row)
        results.append(predictions_of(chosen[row[SOURCE_COLUMN][0].as_py(), row[ROW_COLUMN][0].as_py()]))
    if not inputs:
        return Agreement.unknown("no row has a result")
    rows = pa.concat_tables(inputs)
    worker = ray.remote(agreement_of_rows).options(**plan.ray_options, max_retries=0)

    def of_part(name: str, part: WorkerSetup) -> Agreement:
        own = [result[name] for result in results]
        found = attempt("forward", lambda: ray.get(worker.remote(rows, own, part)))
        return Agreement.unknown(_last_line(found)) if isinstance(found, RowError) else found

    return Agreement.of_parts({name: of_part(name, part) for name, part in setup.parts.items()})


def agreement_of_rows(table: pa.Table, results: Sequence[Any], setup: WorkerSetup) -> Agreement:
    """The agreement of `results` with what the plain pipeline makes of the rows of `table`, in this process."""
    model = dataclasses.replace(setup.model, config=in_float32(setup.model.config))
    runner = dataclasses.replace(setup, model=model, optimize=OptimizeConfig()).load()
    if runner.steps.is_random:
        return Agreement.unknown("this task draws random numbers; no two ways to run it give the same")
    references: list[Any] = []
    for item in items_of_table(table, setup, runner, range(table.num_rows)):
        alone = item if isinstance(item, RowError) else attempt("forward", partial(runner.steps.by_transformers, item))
        column, errors = results_to_arrow([alone], setup.result_type)
        references.append(errors[0] or column[0].as_py())
    return Agreement.of(results, references, REFERENCE)


def _last_line(error: RowError) -> str:
    return error.message.rpartition("Error: ")[2][:200]
