"""A job from file to report: read, run, write, commit.

`check_job` finds everything that is wrong before anything expensive starts; `run_job` is what `ray-pipelines run` and
driver scripts call. The driver sees one small row per written block, which is what progress, the error limit, the
manifest and the report are made of.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import ray_pipelines
from ray_pipelines.config import Job
from ray_pipelines.data.pipeline import PipelineSpec
from ray_pipelines.data.read import Input, describe_input, read_dataset
from ray_pipelines.data.reporting import saved_forecast, write_report
from ray_pipelines.data.sampling import RowSampler
from ray_pipelines.data.write import Output, write_block
from ray_pipelines.engine.hub import COMPONENTS, looks_like_path
from ray_pipelines.errors import ConfigError, JobError, RayPipelinesError, TooManyErrors
from ray_pipelines.report.metrics import Progress, RunReport

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

    from ray_pipelines.data.workers import WorkerSetup

__all__ = ["JobResult", "check_job", "run_job"]

ROWS_BEFORE_GIVING_UP = 1000
WRITE_CPUS = 0.5


@dataclass(frozen=True)
class JobResult:
    """What a finished run has left.

    Attributes:
        report: Its figures.
        output: Its folder.
    """

    report: RunReport
    output: Output

    def first_results(self, num_rows: int) -> pa.Table | None:
        """The first rows of the results, or None if there are none."""
        files = self.report.results_files
        return self.output.read_table(sorted(files)[0]).slice(0, num_rows) if files else None


def spec_of_job(job: Job) -> PipelineSpec:
    """The specification that a job file describes."""
    return PipelineSpec(
        task_name=job.task,
        model=job.model,
        parameters=job.parameters,
        workers=job.workers,
        batch=job.batch,
        optimize=job.optimize,
        limits=job.limits,
        filesystem=job.read.filesystem,
        seed=job.seed,
        output_column=job.output_column,
    )


def check_job(job: Job) -> Input:
    """What the job will read, after looking at everything that can be looked at without Ray or a model.

    Raises:
        ConfigError: One line per problem, of the model's folder, the input, its columns and the output.
    """
    problems: list[str] = []
    source = None
    problems += _model_problems(job)
    try:
        source = describe_input(job)
    except ConfigError as error:
        problems += error.problems
    problems += Output.of(job).problems(job.write.mode)
    if problems or source is None:
        raise ConfigError(problems)
    return source


def run_job(job: Job, on_progress: Callable[[Progress], None] | None = None) -> JobResult:
    """Runs a job on the connected Ray cluster, or on a local one that it starts.

    Args:
        job: What to do.
        on_progress: Called after each block with what is done so far.

    Raises:
        ConfigError: Something is wrong with the job; nothing has been started.
        ResourceError: The cluster cannot hold the workers.
        TooManyErrors: More rows failed than `max_error_rate`.
        JobError: A model could not be loaded, or Ray gave up.
    """
    source = check_job(job)
    start_ray()
    from ray_pipelines.data.agreement import measure_agreement
    from ray_pipelines.data.chunking import plan_chunks
    from ray_pipelines.data.resources import cluster_nodes, plan_workers
    from ray_pipelines.data.stages import apply_stages

    start_s = time.perf_counter()
    spec = spec_of_job(job)
    nodes = cluster_nodes()
    plan = plan_workers(job.workers, spec.planned_task(), nodes)
    rows, num_rows = read_dataset(source, job)
    prediction_type: Literal["infer"] | None = "infer" if job.prediction_type == "infer" else None
    setup = spec.worker_setup(source.inputs, plan, rows, prediction_type)
    setup = dataclasses.replace(setup, dropped_columns=source.dropped_columns, is_counted=True)
    plan = plan_chunks(rows, setup, plan, nodes, num_rows)
    provenance = _provenance(job, setup)
    output = Output.of(job)
    output.start(provenance["run_id"])
    blocks = apply_stages(rows, setup, plan).map_batches(
        partial(
            write_block,
            output=output,
            job=job,
            kept_columns=source.kept_columns,
            provenance=json.dumps(provenance, default=str),
            sampler=RowSampler(job.verify, num_rows, job.seed),
        ),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=WRITE_CPUS,
    )
    progress = Progress(
        num_rows_expected=num_rows,
        plan=plan.describe(),
        num_workers=plan.min_workers,
        forecast=saved_forecast(job),
    )
    _follow(blocks, progress, job, start_s, on_progress or (lambda progress: None))
    elapsed_s = time.perf_counter() - start_s
    report = RunReport.of(progress, provenance, elapsed_s, measure_agreement(rows, setup, plan))
    report = write_report(report, job, progress.samples, source, setup, plan, output)
    output.commit({**provenance, "files": report.files(), **report.counts()})
    return JobResult(report, output)


def _follow(
    blocks: Dataset, progress: Progress, job: Job, start_s: float, on_progress: Callable[[Progress], None]
) -> None:
    """Runs the dataset of written blocks to its end, adding each to `progress`.

    Raises:
        TooManyErrors: More rows failed than the job allows.
        JobError: Ray gave up.
    """
    import ray

    blocks.context.enable_progress_bars = False
    on_progress(progress)
    try:
        with warnings.catch_warnings():
            # A small input that cannot keep every worker busy is no reason to warn.
            warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
            for block in blocks.iter_rows():
                progress.add(block, time.perf_counter() - start_s)
                on_progress(progress)
                _give_up_if_hopeless(progress, job, at_least=ROWS_BEFORE_GIVING_UP)
    except ray.exceptions.RayError as error:
        raise job_error(error) from error
    _give_up_if_hopeless(progress, job, at_least=1)


def _provenance(job: Job, setup: WorkerSetup) -> dict[str, Any]:
    """What a result comes from."""
    return {
        "run_id": f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:6]}",
        "task": setup.task_name,
        "model": str(setup.model),
        "parameters": job.parameters,
        "dtype": job.model.dtype,
        "attn_implementation": job.model.attn_implementation,
        "optimize": list(job.optimize.names),
        "versions": _versions(),
    }


def start_ray() -> None:
    """Connects to the cluster that `RAY_ADDRESS` or this machine has, or starts a quiet local one."""
    import ray
    import ray.data

    for name in ("ray.data", "ray._private.authentication"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not ray.is_initialized():
        ray.init(logging_level=logging.ERROR)


def job_error(error: BaseException) -> RayPipelinesError:
    """The error of this package that Ray has wrapped, or a `JobError` with the innermost reason."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        if isinstance(current, RayPipelinesError):
            return current
        current = getattr(current, "cause", None) or current.__cause__
    return JobError(_innermost_reason(str(error)))


def _innermost_reason(text: str) -> str:
    """The last line of Ray's text that names an exception."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if line.split(":")[0].endswith(("Error", "Exception", "Died")) and ":" in line]
    return (named[-1] if named else lines[-1] if lines else "Ray gave no reason").removeprefix("ray_pipelines.errors.")


def _give_up_if_hopeless(progress: Progress, job: Job, at_least: int) -> None:
    if progress.num_rows < at_least or progress.num_errors <= job.max_error_rate * progress.num_rows:
        return
    frequent = "; ".join(f"{reason} ({count:,})" for reason, count in progress.reasons.most_common(3))
    raise TooManyErrors(
        f"max_error_rate: expected at most {job.max_error_rate:.1%} of the rows to fail; {progress.num_errors:,} of "
        f"{progress.num_rows:,} did. Most frequent: {frequent}. See {job.write.path}/dead_letters."
    )


def _model_problems(job: Job) -> list[str]:
    problems = []
    for key in ("name", "assistant_model", *COMPONENTS):
        value = getattr(job.model, key)
        if value is None:
            continue
        folder = Path(value)
        if folder.is_dir():
            if (
                key == "name"
                and not (folder / "config.json").exists()
                and not (folder / "adapter_config.json").exists()
            ):
                problems.append(f"model.name: folder {value} has no config.json; expected a model's folder.")
        elif looks_like_path(value):
            problems.append(f"model.{key}: expected a hub id or an existing folder; there is no folder {value!r}.")
    return problems


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    libraries = ("ray", "torch", "transformers", "pyarrow")
    return {"ray_pipelines": ray_pipelines.__version__, **{name: version(name) for name in libraries}}
