"""What precision and other savings have changed: a few rows of a job, run once more as asked and in plain float32.

Measured when the job is done, on one worker of the same size, with one model loaded after the other; for `report.json`.
"""

from __future__ import annotations

import dataclasses
import gc
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from ray_pipelines.data.workers import PipelineWorker
from ray_pipelines.errors import RowError, attempt
from ray_pipelines.optimize import OptimizeConfig, in_float32
from ray_pipelines.report.agreement import Agreement

if TYPE_CHECKING:
    from ray.data import Dataset

    from ray_pipelines.data.resources import WorkerPlan
    from ray_pipelines.data.several import AnySetup
    from ray_pipelines.data.workers import WorkerSetup

__all__ = ["AgreementSampler", "measure_agreement"]

FLOAT32_BYTES = 4
MAX_SHARE_OF_MEMORY = 0.8
"""Of what is free: the rest is for activations."""


def measure_agreement(dataset: Dataset, setup: AnySetup, plan: WorkerPlan) -> Agreement | None:
    """How far the first rows' results agree with those of the models in float32; None where that was not asked for.

    Args:
        dataset: The input of the job.
        setup: What its workers load.
        plan: What one of them gets.
    """
    found = {name: _agreement_of_part(dataset, part, plan) for name, part in setup.parts.items()}
    return Agreement.of_parts({name: own for name, own in found.items() if own is not None})


def _agreement_of_part(dataset: Dataset, setup: WorkerSetup, plan: WorkerPlan) -> Agreement | None:
    if not setup.optimize.agreement_rows or not setup.optimize.changes_results(setup.model.config):
        return None
    if plan.application is not None:
        return Agreement.unknown(f"{plan.application} has the model, of which no second copy is loaded")
    from ray.data import ActorPoolStrategy

    sample = dataset.limit(setup.optimize.agreement_rows).map_batches(
        AgreementSampler,
        batch_size=setup.optimize.agreement_rows,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=1),
        **plan.ray_options,
        fn_constructor_kwargs={"setup": setup},
    )
    found = attempt("forward", sample.take_all)
    if isinstance(found, RowError):
        return Agreement.unknown(found.message)
    return Agreement(**json.loads(found[0]["agreement"])) if found else Agreement.unknown("there are no rows")


class AgreementSampler(PipelineWorker):
    """Runs a table as asked and in float32: one row with the agreement, as JSON. Good for one table."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """The agreement over the rows of `table`."""
        return pa.table({"agreement": [json.dumps(dataclasses.asdict(self._agreement(table)))]})

    def _agreement(self, table: pa.Table) -> Agreement:
        results = self._results(table)
        # Both models need not fit at once; what was loaded is out of the collector's sight until now.
        del self.runner
        gc.unfreeze()
        gc.collect()
        model = dataclasses.replace(self.setup.model, config=in_float32(self.setup.model.config))
        plain = dataclasses.replace(self.setup, model=model, optimize=OptimizeConfig())
        shortage = _shortage(plain)
        if shortage is not None:
            return Agreement.unknown(shortage)
        references = attempt("forward", lambda: PipelineWorker(plain)._results(table))
        if isinstance(references, RowError):
            return Agreement.unknown(f"in float32: {references.message}")
        return Agreement.of(results, references)


def _shortage(setup: WorkerSetup) -> str | None:
    """Why the model in float32 does not fit beside what is in memory, or None if it does, or nobody knows."""
    import torch

    empty = attempt("forward", lambda: setup.load(weights=False))
    if isinstance(empty, RowError):
        return None
    needed = FLOAT32_BYTES * sum(parameter.numel() for parameter in empty.steps.pipe.model.parameters())
    if str(setup.device).startswith("cuda"):
        torch.cuda.empty_cache()
        free: int | None = torch.cuda.mem_get_info()[0]
    else:
        free = _available_memory()
    if free is None or needed <= MAX_SHARE_OF_MEMORY * free:
        return None
    return f"the model in float32 needs {needed / 2**30:.1f} GiB; {free / 2**30:.1f} GiB are free"


def _available_memory(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes of this machine's memory that a process can still get, or None where the system does not say."""
    if not meminfo.exists():
        return None
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None
