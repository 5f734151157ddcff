"""The dead letters of a finished run, once more: those that are healed move to the results.

The rows are read again from their files, by position, after a look whether these are still the same. Nothing of the
finished run is touched until the new manifest is written, which lists the old results, the new ones, and what is dead
now; a retry that is interrupted goes on when it is started again with the same settings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
from pyroaring import BitMap64

from ray_pipelines.config import FilesystemConfig, Job
from ray_pipelines.data.execute import execute, models_of_job
from ray_pipelines.data.files import SourceFile, find_files
from ray_pipelines.data.formats import sample_of
from ray_pipelines.data.inventory import Inventory
from ray_pipelines.data.job import JobResult, start_ray
from ray_pipelines.data.lease import hold_lease
from ray_pipelines.data.output import (
    DEAD_LETTERS,
    RESULTS,
    Output,
    RunOutput,
    read_manifest,
    read_output,
    schema_from_text,
)
from ray_pipelines.data.provenance import configuration
from ray_pipelines.data.read import Input, describe_input
from ray_pipelines.data.run_state import finish_cleaning, new_run_id, open_retry
from ray_pipelines.errors import ConfigError, RowError, attempt
from ray_pipelines.job_file import apply_override, validate_job
from ray_pipelines.report.metrics import Progress

__all__ = ["job_of_retry", "retry_job"]

FIXED = ("task", "read.path", "read.format", "read.limit", "read.partitions", "read.columns", "write", "output_column")
"""Settings that a retry cannot change: the healed rows stand beside the others."""


def job_of_retry(path: str, overrides: Sequence[str] = (), filesystem: FilesystemConfig | None = None) -> Job:
    """The job of a finished run with some settings changed, for its dead letters.

    Args:
        path: The output of the run.
        overrides: Settings such as `model.revision=v2`; unless they set them, error limits are off, as all of the rows
            may fail again.
        filesystem: How the output is reached.

    Raises:
        ConfigError: There is no finished run, or a setting cannot be changed.
    """
    output = read_output(path, filesystem)
    values: dict[str, Any] = {**output.manifest["job"], "max_error_rate": 1.0, "max_errors": None}
    values["write"] = {**values["write"], "path": output.path}
    for override in overrides:
        key = override.partition("=")[0]
        if _is_fixed(key):
            raise ConfigError(f"--set {key}: cannot be changed by a retry, as its results join those of the run.")
        apply_override(values, override)
    return validate_job(values)


def _is_fixed(key: str) -> bool:
    """Whether a setting decides what stands beside the healed rows: also which tasks there are, of several."""
    first, *others = key.split(".")
    is_of_tasks = first == "tasks" and (len(others) < 2 or others[1] == "task")
    return is_of_tasks or any(key == fixed or key.startswith(f"{fixed}.") for fixed in FIXED)


def retry_job(job: Job, on_progress: Callable[[Progress], None] | None = None) -> JobResult | None:
    """Runs the dead letters of a finished run again; gives None if there are none.

    Args:
        job: The job, as `job_of_retry` gives it.
        on_progress: Called after each block with what is done so far.

    Raises:
        ConfigError: There is no finished run, files of the dead letters have changed, or results would have other
            columns.
        JobError: As for `run_job`.
    """
    output = Output.of(job)
    finish_cleaning(output)
    before = read_output(output.path, job.write_filesystem)
    if not before.manifest["num_errors"]:
        return None
    lost = "The dead letters cannot be found in the input without it."
    inventory = Inventory.read(before.folder, before.manifest["sources"], lost)
    rows = _rows(before, inventory)
    files = _unchanged_files(job, inventory, rows)
    source = _input(job, inventory, files, schema_from_text(before.manifest["schemas"][RESULTS]))
    start_ray()
    run_id = new_run_id()
    with hold_lease(output.folder, run_id) as lease:
        _check_same(before)
        models = models_of_job(job)
        run = open_retry(before.manifest, rows, inventory, configuration(job, source, models), output, run_id)
        report = execute(run, job, source, models, lease, on_progress)
    return JobResult(report, output)


def _check_same(before: RunOutput) -> None:
    """Raises if another command has ended in the output since it was looked at: its results would be lost.

    Raises:
        ConfigError: One has.
    """
    now = read_manifest(before.folder)
    if now is None or now["run_id"] != before.manifest["run_id"]:
        raise ConfigError(f"write.path: {before.path} holds the output of another run by now. Retry that.")


def _rows(output: RunOutput, inventory: Inventory) -> BitMap64:
    """The dead letters as integers.

    Raises:
        ConfigError: Their files are not what the run has written; those that they lack would be lost.
    """

    def read() -> BitMap64:
        table = output.dead_letters.to_table(columns=["source", "row"])
        return BitMap64(inventory.ids_of_rows(table["source"].to_pylist(), table["row"].to_pylist()))

    rows, expected = attempt("read", read), output.manifest["num_errors"]
    if isinstance(rows, RowError) or len(rows) != expected:
        found = rows.message if isinstance(rows, RowError) else f"{len(rows):,}."
        raise ConfigError(
            f"{output.path}/{DEAD_LETTERS}: expected the {expected:,} dead letters of the run; got {found}"
        )
    return rows


def _unchanged_files(job: Job, inventory: Inventory, rows: BitMap64) -> tuple[SourceFile, ...]:
    """The files of the run that are what they were.

    Raises:
        ConfigError: One with dead letters is not.
    """
    read = job.read.model_copy(update={"format": inventory.read_format})
    changes = inventory.changes(find_files(read, job.read_filesystem)[1])
    concerned = inventory.paths_of_rows(rows)
    problems = dataclasses.replace(
        changes,
        changed=tuple(path for path in changes.changed if path in concerned),
        vanished=tuple(path for path in changes.vanished if path in concerned),
    ).problems()
    if problems:
        raise ConfigError([f"{problem} Their dead letters cannot be found again." for problem in problems])
    others = {*changes.changed, *changes.vanished}
    return tuple(file for file in inventory.files if file.path not in others)


def _input(job: Job, inventory: Inventory, files: Sequence[SourceFile], results: pa.Schema) -> Input:
    """What the run has read: its kept columns have the types that they had, the others those of a sample of its files.

    Files that are new are not looked at, as they may have other columns and types.
    """
    sample = tuple(file.path for file in sample_of(files))
    read = job.read.model_copy(update={"path": sample, "format": inventory.read_format, "partitions": {}})
    source = describe_input(job.model_copy(update={"read": read}))
    kept = {field.name: field for field in results if field.name not in job.parts}
    columns = {field.name: field for field in source.schema} | kept
    schema = pa.schema(columns.values(), source.schema.metadata)
    return dataclasses.replace(source, files=tuple(files), schema=schema, kept_columns=tuple(kept))
