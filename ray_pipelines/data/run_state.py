"""One run of a job in its output: begun, gone on with after a crash, and finished by its manifest.

`_run/run.json` says which configuration the run has; it is written before the first row and removed when the manifest
is there. Whoever finds it goes on with the run if the configuration and the input are the same, and says what is
different otherwise.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from pydantic import BaseModel
from pyroaring import BitMap64

from ray_pipelines.config import Job
from ray_pipelines.data.files import SourceFile
from ray_pipelines.data.inventory import Inventory
from ray_pipelines.data.lease import hold_lease
from ray_pipelines.data.output import DEAD_LETTERS, MANIFEST, RESULTS, RUN, STAGED, Output, read_manifest
from ray_pipelines.data.provenance import versions
from ray_pipelines.data.read import Input
from ray_pipelines.data.resume import COMMITS, Ledger
from ray_pipelines.engine.identity import differences, digest_of
from ray_pipelines.errors import ConfigError, JobError
from ray_pipelines.validation import model_of_json

__all__ = ["Run", "RunRecord", "finish_cleaning", "inventory_of", "new_run_id", "open_retry", "open_run", "read_record"]

logger = logging.getLogger(__name__)

HALF = re.compile(rf"\.({'|'.join(map(re.escape, (MANIFEST, *STAGED)))})\.[0-9a-f]{{8}}\.tmp")
"""Names of files at the top of the folder that were not written to their end."""


class RunRecord(BaseModel, extra="forbid", frozen=True):
    """What `_run/run.json` says.

    Attributes:
        run_id: Name of the run.
        kind: A run of a whole job, or a retry of the dead letters of a finished one.
        mode: `write.mode` of the job.
        prefix: Begins the names of the run's files.
        attempt: Which attempt at its rows the run is.
        configuration: What determines the results.
        versions: Versions of libraries.
        base_run_id: Of a retry: the run whose dead letters it takes.
        result_type: Arrow type of a result, where it was inferred.
    """

    run_id: str
    kind: Literal["run", "retry"]
    mode: str
    prefix: str
    attempt: int
    configuration: Mapping[str, Any]
    versions: Mapping[str, str]
    base_run_id: str | None = None
    result_type: str | None = None

    @property
    def sources_file(self) -> str:
        """Where the inventory of the run is kept."""
        return f"_run/sources-{self.prefix}.parquet"


@dataclass
class Run:
    """A run that writes to an output.

    Attributes:
        output: The output.
        record: What is kept of it.
        inventory: Its input.
        ledger: What it has written.
        only: Of a retry: the rows that it takes.
        base_manifest: Of a retry: the manifest that it goes on from.
    """

    output: Output
    record: RunRecord
    inventory: Inventory
    ledger: Ledger
    only: BitMap64 | None = None
    base_manifest: Mapping[str, Any] = field(default_factory=dict)

    def write_record(self) -> None:
        """Keeps the record."""
        self.output.write_json(RUN, self.record.model_dump())

    def note_result_type(self, text: str) -> None:
        """Keeps the type of results that was inferred, so that all of the run has the same."""
        self.record = self.record.model_copy(update={"result_type": text})
        self.write_record()

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Writes the manifest, which ends the run, and removes what is not part of it."""
        self.output.write_json(MANIFEST, {**manifest, "sources": self.record.sources_file})
        clean_up(self.output, manifest["files"], self.record.sources_file)


def inventory_of(job: Job, source: Input) -> Inventory:
    """The input of a job as it is now, cut at `read.limit`."""
    inventory = Inventory.of(source.files, source.read_format, source.filesystem)
    if job.read.limit is None:
        return inventory
    return inventory.limited(job.read.limit, source.schema, source.filesystem)


def new_run_id() -> str:
    """A name for a run: when it began, and something that no other has."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:6]}"


def open_run(job: Job, source: Input, configuration: Mapping[str, Any], output: Output, run_id: str) -> Run:
    """The unfinished run of the same configuration, or a new one.

    Raises:
        ConfigError: There is an unfinished run of another configuration, or its input has changed.
    """
    record = read_record(output)
    if record is not None and record.kind == "run" and not (job.write.mode == "overwrite" != record.mode):
        remedy = f"Remove {output.path}/{RUN} to start anew."
        inventory = Inventory.read(output.folder, record.sources_file, remedy)
        problems = _problems(job, record, configuration, inventory, source.files, output)
        if not problems:
            return _go_on(output, record, inventory, source)
        if job.write.mode != "overwrite" and Ledger.read(output.folder, record.prefix).num_rows:
            raise ConfigError(problems)
    inventory = inventory_of(job, source)
    # A finished run that this one will replace is left as it is until then: no file of the two has the same name.
    replaced = (read_manifest(output.folder) or {}).get("run_id")
    prefix = digest_of(configuration, versions(), inventory.digest(), 1, replaced)
    started = RunRecord(
        run_id=run_id,
        kind="run",
        mode=job.write.mode,
        prefix=prefix,
        attempt=1,
        configuration=configuration,
        versions=versions(),
    )
    return _start(Run(output, started, inventory, Ledger(output.folder)))


def open_retry(
    manifest: Mapping[str, Any],
    rows: BitMap64,
    inventory: Inventory,
    configuration: Mapping[str, Any],
    output: Output,
    run_id: str,
) -> Run:
    """The unfinished retry of the same dead letters with the same configuration, or a new one.

    Args:
        manifest: Of the finished run.
        rows: Its dead letters, as integers.
        inventory: Its input.
        configuration: What determines the results now.
        output: Its output.
        run_id: Name of a new retry.

    Raises:
        ConfigError: There is an unfinished run, or retry of another configuration, which would be lost.
    """
    attempt = manifest["attempt"] + 1
    record = read_record(output)
    if record is not None and record.kind == "run":
        raise ConfigError(
            f"write.path: {output.path} holds an unfinished run that is to replace the one with these dead letters. "
            f"End it with the same job (write.mode: overwrite), or remove {output.path}/{RUN} to give it up."
        )
    if record is not None and record.base_run_id == manifest["run_id"]:
        different = differences(record.configuration, configuration)
        ledger = Ledger.read(output.folder, record.prefix)
        if not different:
            return Run(output, record, inventory, ledger, rows, manifest)
        if ledger.num_rows:
            raise ConfigError(
                f"write.path: {output.path} holds an unfinished retry of another configuration: "
                f"{'; '.join(different)}. End it with the same settings, or remove {output.path}/{RUN} to give it up."
            )
    prefix = digest_of(configuration, versions(), inventory.digest(), attempt)
    started = RunRecord(
        run_id=run_id,
        kind="retry",
        mode="resume",
        prefix=prefix,
        attempt=attempt,
        configuration=configuration,
        versions=versions(),
        base_run_id=manifest["run_id"],
    )
    return _start(Run(output, started, inventory, Ledger(output.folder), rows, manifest))


def read_record(output: Output) -> RunRecord | None:
    """The record of the unfinished run in an output, if there is one; a finished one is cleaned up.

    Raises:
        ConfigError: It is not one that this version can go on with, or the manifest is damaged.
    """
    record, manifest = _record_in(output), read_manifest(output.folder)
    if record is None or manifest is None or manifest["run_id"] != record.run_id:
        return record
    clean_up(output, manifest["files"], manifest["sources"])
    return None


def _record_in(output: Output) -> RunRecord | None:
    remedy = "Go on with the version of this package that has written it, or remove it to start anew."
    return output.folder.read_as(RUN, partial(model_of_json, model=RunRecord), remedy)


def clean_up(output: Output, files: Mapping[str, Iterable[str]], sources_file: str) -> None:
    """Puts the report of a finished run in place, and removes what it does not need: its ledger, files that are not in
    its manifest, halves of files that somebody was killed over, and last its record.

    As long as the record is there, `read_record` and `finish_cleaning` find what is left to remove.
    """
    for name, staged in STAGED.items():
        if (report := output.folder.read(staged)) is not None:
            output.folder.write(name, report)
    kept = {*files[RESULTS], *files[DEAD_LETTERS], sources_file, RUN}
    for below in (COMMITS, RESULTS, DEAD_LETTERS, "_run"):
        names = output.folder.sizes(below)
        output.folder.remove(name for name in names if name not in kept and "/lease.json" not in name)
    output.folder.remove(name for name in output.folder.top_names() if HALF.fullmatch(name))
    output.folder.remove([RUN])


def finish_cleaning(output: Output) -> None:
    """Cleans up after a finished run whose process ended while it did so.

    A folder that cannot be reached is left to those who say why.

    Raises:
        ConfigError: Another process is cleaning up, or the record is damaged.
    """
    if output.problems("overwrite") or (record := _record_in(output)) is None:
        return
    manifest = read_manifest(output.folder)
    if manifest is not None and record.run_id == manifest["run_id"]:
        with hold_lease(output.folder, record.run_id):
            read_record(output)


def check_unchanged(run: Run, files: Sequence[SourceFile]) -> None:
    """Raises if files that a run has read changed meanwhile.

    Raises:
        JobError: They did.
    """
    changes = run.inventory.changes(files)
    concerned = changes.changed if run.only is None else run.inventory.paths_of_rows(run.only)
    changed = tuple(path for path in changes.changed if path in concerned)
    if problems := dataclasses.replace(changes, changed=changed, vanished=()).problems():
        raise JobError(
            f"{' '.join(problems)} Rows of both contents may be written. Run it anew: write.mode: overwrite."
        )


def _start(run: Run) -> Run:
    run.ledger.clear()
    run.output.folder.write(run.record.sources_file, run.inventory.to_bytes())
    run.write_record()
    return run


def _go_on(output: Output, record: RunRecord, inventory: Inventory, source: Input) -> Run:
    new = inventory.changes(source.files)
    if new.new:
        logger.warning("The run began without %s; they are read too.", new.new_files())
        inventory = inventory.with_files(new.new, source.filesystem)
        output.folder.write(record.sources_file, inventory.to_bytes())
    updates = differences(record.versions, versions())
    if updates:
        logger.warning("The run goes on with other versions: %s.", "; ".join(updates))
    return Run(output, record, inventory, Ledger.read(output.folder, record.prefix))


def _problems(
    job: Job,
    record: RunRecord,
    configuration: Mapping[str, Any],
    inventory: Inventory,
    files: Sequence[SourceFile],
    output: Output,
) -> list[str]:
    """Why a job cannot go on with an unfinished run."""
    anew = "Choose another folder, or set write.mode: overwrite to start anew."
    different = differences(record.configuration, configuration)
    if different:
        held = f"write.path: {output.path} holds an unfinished run of another configuration"
        return [f"{held}: {'; '.join(different)}. {anew}"]
    changes = inventory.changes(files)
    problems = changes.problems()
    if changes.new and job.read.limit is not None:
        problems.append(f"read.limit: the first rows are others now, as there is/are {changes.new_files()}.")
    return [f"{problem} {anew}" for problem in problems]
