"""What a job would do and take, found by running a few of its rows: `ray-pipelines plan`.

One worker of the planned size loads the model and runs rows from several places of the input. From what they took, and
how much that varied, follow the speed, the time and the GPU-hours of the whole, with a range. Nothing is written.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.csv

from ray_pipelines.config import Job
from ray_pipelines.data.execute import job_error, setup_of_job, spec_of_job
from ray_pipelines.data.formats import ROW_COLUMN, SOURCE_COLUMN, read_unit, units_of_file
from ray_pipelines.data.job import check_job, start_ray
from ray_pipelines.data.read import Input, read_dataset
from ray_pipelines.data.reporting import inputs_of, save_forecast
from ray_pipelines.data.resume import Remaining
from ray_pipelines.data.run_state import inventory_of
from ray_pipelines.data.several import SeveralWorker, worker_class
from ray_pipelines.data.workers import ERROR_COLUMN
from ray_pipelines.errors import ConfigError, JobError
from ray_pipelines.report.figures import Figures
from ray_pipelines.report.forecast import Forecast
from ray_pipelines.report.plan import JobPlan, Trial
from ray_pipelines.report.samples import Sample

if TYPE_CHECKING:
    from ray_pipelines.data.resources import WorkerPlan
    from ray_pipelines.data.several import AnySetup

__all__ = ["estimated_rows", "foretell", "plan_job", "sample_tables"]

SAMPLED_FILES = 4
SHOWN_ROWS = 3
WARM_UP_ROWS = 8
NUM_PARTS = 4
START_TIMEOUT_S = 600.0
OVERHEAD = 1.3
"""How much slower a whole run may be than its rows alone: reading, writing, the last blocks, noisy machines."""


def plan_job(job: Job, num_rows: int = 256) -> JobPlan:
    """Runs `num_rows` of the job's rows on one worker, and says what all of them would take.

    What is foretold is kept for a run of the same job on this machine, whose report will say how right it was.

    Raises:
        ConfigError: Something is wrong with the job.
        ResourceError: The cluster cannot hold the workers.
        JobError: The model cannot be loaded, or no worker has started.
    """
    if job.workers.serve is not None:
        raise ConfigError(
            "workers.serve: what an application will have time for cannot be foretold. Plan with workers of the job's "
            "own: --set 'workers={}'."
        )
    source = check_job(job)
    tables = sample_tables(source, num_rows)
    start_ray()
    from ray_pipelines.data.chunking import plan_chunks
    from ray_pipelines.nodes import cluster_nodes

    spec, nodes = spec_of_job(job), cluster_nodes()
    inventory = inventory_of(job, source)
    known = inventory.num_rows
    workers = spec.plan(nodes, known)
    rows = read_dataset(source, [Remaining(unit) for unit in inventory.all_units], job)
    prediction_type: Literal["infer"] | None = "infer" if job.prediction_type == "infer" else None
    setup = setup_of_job(spec, source, workers, rows, prediction_type)
    workers = plan_chunks(rows, setup, workers, nodes, known)
    trial, results = _try(dataclasses.replace(setup, is_counted=True), workers, tables, num_rows)
    total = known if known is not None else estimated_rows(source, tables, job.read.limit)
    forecast = foretell(trial, workers, total, sum(node.num_cpus for node in nodes))
    if forecast is not None:
        save_forecast(job, forecast)
    return JobPlan(
        schema=source.schema,
        num_files=len(source.files),
        num_rows=total,
        is_estimated=known is None,
        workers=workers.describe(),
        num_workers=workers.min_workers,
        num_gpus=workers.num_gpus,
        samples=_samples(tables, results, job, source),
        trial=trial,
        figures=Figures.of(trial.counters, trial.rows_per_s),
        forecast=forecast,
    )


def sample_tables(source: Input, num_rows: int) -> list[pa.Table]:
    """Rows from several files, and from the middle of those that have units; `num_rows` at most in all."""
    step = max(1, len(source.files) // SAMPLED_FILES)
    files = source.files[::step][:SAMPLED_FILES]
    tables: list[pa.Table] = []
    left = num_rows
    if source.files and len(units_of_file(files[0], source.read_format, source.filesystem)) == 1 == len(source.files):
        share = num_rows
    else:
        share = max(1, num_rows // max(1, len(files)))
    # Files of one row each, such as pictures: as many as there are rows to take.
    for file in files if len(source.files) < num_rows else _spread(source.files, num_rows):
        units = units_of_file(file, source.read_format, source.filesystem)
        unit = units[len(units) // 2]
        table = next(iter(read_unit(unit, source.read_format, source.schema, share, source.filesystem)), None)
        if table is not None and table.num_rows:
            tables.append(table.slice(0, min(share, left)))
            left -= tables[-1].num_rows
        if left <= 0:
            break
    return tables


def foretell(trial: Trial, workers: WorkerPlan, num_rows: int | None, num_cpus: float) -> Forecast | None:
    """Speed and time of `num_rows` rows, from what one worker took for some.

    Args:
        trial: What it took.
        workers: How many there will be; with split stages, CPU tasks and forwards go on side by side.
        num_rows: Rows in all.
        num_cpus: CPUs of the cluster.
    """
    if not num_rows or not trial.rows_per_s:
        return None
    speed = trial.rows_per_s * workers.min_workers
    counters = trial.counters
    on_cpu_s = counters.decode_s + counters.preprocess_s + counters.postprocess_s
    if workers.stages == "split" and counters.forward_s and on_cpu_s:
        free = max(1.0, num_cpus - workers.min_workers * workers.num_cpus)
        speed = min(trial.num_rows / counters.forward_s * workers.min_workers, trial.num_rows / on_cpu_s * free)
    work_s = num_rows / speed
    low_s = trial.startup_s * 0.7 + work_s * max(0.5, 0.9 - 2 * trial.spread)
    high_s = trial.startup_s * 2 + work_s * (OVERHEAD + 2 * trial.spread)
    return Forecast("plan", speed, trial.startup_s + work_s * (1 + OVERHEAD) / 2, low_s, high_s)


class _TrialWorker:
    """A worker that times itself."""

    def __init__(self, setup: AnySetup) -> None:
        make: Any = worker_class(setup)
        self._worker = make(setup)

    def loaded(self) -> bool:
        """Answers once the model is there."""
        return True

    def run(self, tables: Sequence[pa.Table]) -> dict[str, Any]:
        """What the tables took, one by one, and what memory was used; the first one warms up and does not count."""
        outputs, seconds = [self._worker(tables[0])], []
        before = self._worker.counters
        for table in tables[1:]:
            start_s = time.perf_counter()
            outputs.append(self._worker(table))
            seconds.append(time.perf_counter() - start_s)
        columns = list(self._worker.setup.parts)
        pipes = [runner.steps.pipe for runner in self._worker.runners.values()]
        peak, total = _memory(str(pipes[0].device))
        weights = [each for pipe in pipes for each in pipe.model.parameters()]
        results = [row for output in outputs for row in output.select(columns).to_pylist()]
        return {
            "seconds": seconds,
            "counters": self._worker.counters.since(before),
            "results": results if isinstance(self._worker, SeveralWorker) else [row[columns[0]] for row in results],
            "errors": [error for output in outputs for error in output[ERROR_COLUMN].to_pylist() if error],
            "weight_bytes": sum(each.numel() * each.element_size() for each in weights),
            "peak_bytes": peak,
            "total_bytes": total,
        }


def _try(setup: AnySetup, workers: WorkerPlan, tables: Sequence[pa.Table], num_rows: int) -> tuple[Trial, list[Any]]:
    """The tables on a worker of the planned size; also the results.

    Raises:
        JobError: No worker has started, the model cannot be loaded, or the input has no rows.
    """
    import ray

    if not tables:
        raise JobError("read.path: the files have no rows; there is nothing to plan.")
    everything = pa.concat_tables(tables)
    warm_up = everything.slice(0, min(WARM_UP_ROWS, everything.num_rows))
    timed = everything.slice(warm_up.num_rows) if everything.num_rows > 2 * WARM_UP_ROWS else everything
    rows = -(-timed.num_rows // NUM_PARTS)
    parts = [timed.slice(start, rows) for start in range(0, timed.num_rows, rows)]
    start_s = time.perf_counter()
    worker = ray.remote(_TrialWorker).options(**workers.ray_options).remote(setup)
    try:
        ray.get(worker.loaded.remote(), timeout=START_TIMEOUT_S)
        startup_s = time.perf_counter() - start_s
        found = ray.get(worker.run.remote([warm_up, *parts]))
    except ray.exceptions.GetTimeoutError:
        raise JobError(f"workers: no worker has started within {START_TIMEOUT_S:.0f} s. Is the cluster busy?") from None
    except ray.exceptions.RayError as error:
        raise job_error(error) from error
    finally:
        ray.kill(worker)
    reasons = tuple(f"{error['stage']}: {error['type']}: {error['message']}" for error in found.pop("errors"))
    results = found.pop("results")
    trial = Trial(
        num_rows=timed.num_rows,
        seconds=tuple(found.pop("seconds")),
        part_rows=tuple(part.num_rows for part in parts),
        startup_s=startup_s,
        reasons=reasons,
        **found,
    )
    return trial, results if timed is not everything else results[warm_up.num_rows :]


def _samples(tables: Sequence[pa.Table], results: Sequence[Any], job: Job, source: Input) -> tuple[Sample, ...]:
    """Some rows with their results, from the ends and the middle."""
    everything = pa.concat_tables(tables)
    chosen = sorted({index * (everything.num_rows - 1) // max(1, SHOWN_ROWS - 1) for index in range(SHOWN_ROWS)})
    samples = []
    for index in chosen:
        row = everything.slice(index, 1)
        place = f"{row[SOURCE_COLUMN][0].as_py()}#{row[ROW_COLUMN][0].as_py()}"
        samples.append(Sample(place, inputs_of(row, job, source), results[index], bool(job.tasks)))
    return tuple(samples)


def estimated_rows(source: Input, tables: Sequence[pa.Table], limit: int | None = None) -> int | None:
    """About how many rows a job has, from the bytes of the files and of the sampled rows; `limit` at most."""
    num_rows = sum(table.num_rows for table in tables)
    num_bytes = sum(_stored_bytes(table.select(source.schema.names), source.read_format) for table in tables)
    sampled = {path for table in tables for path in table[SOURCE_COLUMN].unique().to_pylist()}
    if num_rows and all(table.num_rows == 1 for table in tables):
        estimate = len(source.files)
    elif not num_bytes or not sampled:
        return None
    else:
        estimate = max(num_rows, round(sum(file.num_bytes for file in source.files) / (num_bytes / num_rows)))
    return estimate if limit is None else min(estimate, limit)


def _stored_bytes(table: pa.Table, read_format: str) -> int:
    """About how many bytes of a file rows take."""
    if read_format == "jsonl":
        return sum(len(json.dumps(row, ensure_ascii=False, default=str).encode()) + 1 for row in table.to_pylist())
    if read_format == "csv":
        file = pa.BufferOutputStream()
        pa.csv.write_csv(table, file, pa.csv.WriteOptions(include_header=False, quoting_style="needed"))
        return int(file.getvalue().size)
    return int(table.nbytes)


def _spread(files: Sequence[Any], count: int) -> list[Any]:
    return [files[index * len(files) // count] for index in range(count)]


def _memory(device: str) -> tuple[int, int]:
    """The most memory that was in use, and what there is: of a GPU, or of this process and its node."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties(0).total_memory
    import os
    import resource

    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, total
