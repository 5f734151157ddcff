"""A job from file to report: read, run, write, commit.

`check_job` finds everything that is wrong before anything expensive starts; `run_job` is what `ray-pipelines run` and
driver scripts call: it takes the output's lease, begins a run or goes on with an interrupted one (`run_state.py`), and
executes it (`execute.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ray_pipelines.cluster import connect
from ray_pipelines.config import Job, ModelConfig
from ray_pipelines.data.execute import execute, models_of_job
from ray_pipelines.data.files import MEDIA_FORMATS, is_hidden
from ray_pipelines.data.folder import Folder
from ray_pipelines.data.lease import hold_lease
from ray_pipelines.data.output import Output
from ray_pipelines.data.provenance import configuration
from ray_pipelines.data.read import Input, describe_input
from ray_pipelines.data.run_state import RunRecord, finish_cleaning, new_run_id, open_run, read_record
from ray_pipelines.engine.hub import COMPONENTS, looks_like_path
from ray_pipelines.errors import ConfigError
from ray_pipelines.report.metrics import Progress, RunReport
from ray_pipelines.validation import variable_hint

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["JobResult", "check_job", "run_job", "start_ray"]


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


def check_job(job: Job) -> Input:
    """What the job will read, after looking at everything that can be looked at without Ray or a model.

    Raises:
        ConfigError: One line per problem, of the model's folder, the input, its columns and the output.
    """
    _check_type(job)
    problems: list[str] = []
    source = None
    for name, part in job.parts.items():
        problems += [job.where_of(name) + problem for problem in _model_problems(part)]
    try:
        source = describe_input(job)
    except ConfigError as error:
        problems += error.problems
    output = Output.of(job)
    if hint := variable_hint(job.write.path):
        problems.append(f"write.path: expected a folder; got {job.write.path}.{hint}")
    problems += output.problems(job.write.mode) or filter(None, [output.folder.problem(), _place_problem(job, output)])
    if problems or source is None:
        raise ConfigError(problems)
    return source


def run_job(job: Job, on_progress: Callable[[Progress], None] | None = None) -> JobResult:
    """Runs a job on the connected Ray cluster, or on a local one that it starts.

    If an earlier run of the same job was interrupted, this one goes on where it ended.

    Args:
        job: What to do.
        on_progress: Called after each block with what is done so far.

    Raises:
        ConfigError: Something is wrong with the job; nothing has been started.
        ResourceError: The cluster cannot hold the workers.
        TooManyErrors: More rows failed than `max_error_rate` or `max_errors` allow.
        StorageError: The input or the output cannot be reached any more.
        JobError: A model could not be loaded, or Ray gave up.
    """
    _check_type(job)
    output, run_id = Output.of(job), new_run_id()
    finish_cleaning(output)
    source = check_job(job)
    start_ray()
    with hold_lease(output.folder, run_id) as lease:
        # Another run may have ended here since, while Ray was starting.
        if problems := output.problems(job.write.mode):
            raise ConfigError(problems)
        job = with_pinned_models(job, read_record(output))
        models = models_of_job(job)
        run = open_run(job, source, configuration(job, source, models), output, run_id)
        report = execute(run, job, source, models, lease, on_progress)
    return JobResult(report, output)


def _check_type(job: object) -> None:
    if not isinstance(job, Job):
        raise TypeError(f"job: expected what read_job gives; got a {type(job).__name__}. Call read_job(path) first.")


def with_pinned_models(job: Job, record: RunRecord | None) -> Job:
    """The job with the commits that its models' branches pointed to when the unfinished run began."""
    was = record.configuration if record else {}
    if not job.tasks:
        pinned = _pinned(job.model, was.get("model.name"))
        return job if pinned is job.model else job.model_copy(update={"model": pinned})
    several = {
        name: one.model_copy(update={"model": _pinned(one.model, was.get(f"tasks.{name}.model.name"))})
        for name, one in job.tasks.items()
    }
    return job.model_copy(update={"tasks": several})


def _pinned(model: ModelConfig, was: str | None) -> ModelConfig:
    name, _, commit = str(was or "").rpartition("@")
    if not name or model.name not in (None, name) or model.revision is not None:
        return model
    return model.model_copy(update={"name": name, "revision": commit})


def start_ray() -> None:
    """Connects to the cluster that `RAY_ADDRESS` or this machine has, or starts a quiet local one.

    Raises:
        ConfigError: `RAY_ADDRESS` names a cluster that does not answer.
    """
    import ray.data  # noqa: F401  # its loggers are there from now on

    for name in ("ray.data", "ray._private.authentication"):
        logging.getLogger(name).setLevel(logging.ERROR)
    connect()


def _place_problem(job: Job, output: Output) -> str | None:
    """Why what the job writes would be read by the run that goes on with it, or None if it would not."""
    if job.read.format in MEDIA_FORMATS:
        return None
    for path in job.read.paths:
        root = Folder.of(path, job.read_filesystem).path.removeprefix("file://")
        name = output.path.removeprefix("file://")
        if name.startswith(f"{root}/") and not is_hidden(name.removeprefix(root)):
            return f"write.path: {output.path} is in {path}, which is read. Choose a folder that is not in read.path."
    return None


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
