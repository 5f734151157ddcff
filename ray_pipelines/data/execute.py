"""A run from its remaining rows to its manifest: read, predict, write, count, and look whether all are there.

The driver sees one small row per written block, which is what progress and the error limits are made of. When Ray is
done, the ledger is compared with the input; rows that are in no block that counts are read again, and only when every
row counts once is the manifest written.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from ray_pipelines import errors
from ray_pipelines.arrow import ERROR_TYPE, empty_table
from ray_pipelines.config import Job
from ray_pipelines.data.files import SourceFile, find_files
from ray_pipelines.data.formats import ROW_COLUMN, SOURCE_COLUMN
from ray_pipelines.data.output import DEAD_LETTERS, RESULTS, schema_from_text, schema_to_text
from ray_pipelines.data.pipeline import PipelineSpec
from ray_pipelines.data.pipelines import PipelinesSpec
from ray_pipelines.data.provenance import job_values, provenance
from ray_pipelines.data.read import Input, read_dataset
from ray_pipelines.data.reporting import saved_forecast, write_report
from ray_pipelines.data.resume import Commit, Remaining, remaining_units, without_empty
from ray_pipelines.data.run_state import check_unchanged
from ray_pipelines.data.sampling import RowSampler, place_of, rows_to_show, rows_to_verify
from ray_pipelines.data.sinks import Sink
from ray_pipelines.data.workers import ERROR_COLUMN
from ray_pipelines.data.write import BlockWriter, dead_letters, write_block
from ray_pipelines.engine.hub import resolve_model
from ray_pipelines.engine.identity import differences, digest_of
from ray_pipelines.errors import ConfigError, JobError, RayPipelinesError, StorageError, TooManyErrors
from ray_pipelines.report.metrics import Progress, RunReport

if TYPE_CHECKING:
    from ray.data import Dataset

    from ray_pipelines.data.lease import Lease
    from ray_pipelines.data.resources import WorkerPlan
    from ray_pipelines.data.run_state import Run
    from ray_pipelines.data.several import AnySetup
    from ray_pipelines.engine.hub import PinnedModel

__all__ = ["execute", "files_of", "job_error", "models_of_job", "setup_of_job", "spec_of_job"]

ROWS_BEFORE_GIVING_UP = 1000
WRITE_CPUS = 0.5
MAX_PASSES = 3
"""How often rows are read that no block that counts has; more than once only after work that overlapped."""
WAVE_BLOCKS = 32
"""Blocks whose chunks are shuffled together at first."""
LEAST_WAVE_S = 300.0
"""Waves that are shorter grow, as their workers load the model anew; a crash costs about twice as much at most."""
RESULT = "result"
MAX_SAMPLES = 200

OnProgress = Callable[[Progress], None]


def spec_of_job(job: Job) -> PipelineSpec | PipelinesSpec:
    """The specification that a job file describes, of one task or of several."""
    if job.tasks:
        return PipelinesSpec({name: spec_of_part(part) for name, part in job.parts.items()}, job.workers)
    return spec_of_part(job)


def spec_of_part(job: Job) -> PipelineSpec:
    """The specification of a job of one task."""
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


def models_of_job(job: Job) -> dict[str, PinnedModel]:
    """Column of results: the model of its task, pinned.

    Raises:
        ModelLoadError: A model's name cannot be resolved.
    """
    return {name: resolve_model(spec_of_part(part).task.name, part.model) for name, part in job.parts.items()}


def execute(
    run: Run, job: Job, source: Input, models: Mapping[str, PinnedModel], lease: Lease, on_progress: OnProgress | None
) -> RunReport:
    """Runs what is left of a run, and writes its report and manifest.

    Args:
        run: The run.
        job: Its job.
        source: Its input.
        models: Its models, pinned, by their column of results.
        lease: The lease of its output.
        on_progress: Called after each block with what is done so far.

    Raises:
        ResourceError: The cluster cannot hold the workers.
        TooManyErrors: More rows failed than the job allows.
        StorageError: The input or the output cannot be reached any more.
        JobError: A model could not be loaded, Ray gave up, or rows are missing in the end.
    """
    from ray_pipelines.data.agreement import measure_agreement
    from ray_pipelines.data.chunking import plan_chunks
    from ray_pipelines.data.room import room_for
    from ray_pipelines.data.stages import apply_stages
    from ray_pipelines.nodes import cluster_nodes

    started_s, start_s = time.time(), time.perf_counter()
    spec = spec_of_job(job)
    nodes = cluster_nodes()
    plan = spec.plan(nodes, run.inventory.num_rows)
    units = remaining_units(run.inventory, run.ledger, run.only)
    rows = read_dataset(source, units, job)
    setup = setup_of_job(spec, source, plan, rows, _prediction_type(run, job))
    setup = dataclasses.replace(setup, dropped_columns=source.dropped_columns, is_counted=True)
    if units:
        most_rows = WAVE_BLOCKS * job.read.rows_per_block
        plan = plan_chunks(rows, setup, plan, nodes, run.inventory.num_rows, most_rows)
    if job.prediction_type == "infer" and run.record.result_type is None:
        run.note_result_type(schema_to_text(pa.schema([(RESULT, setup.parts[job.output_column].result_type)])))
    schemas = _schemas(source, setup)
    check_schemas(run, schemas)
    described = provenance(job, models, run.record.run_id)
    writer = BlockWriter(
        output=run.output,
        sink=Sink(job.write, source.filesystem),
        kept_columns=source.kept_columns,
        output_columns=tuple(setup.parts),
        prefix=run.record.prefix,
        attempt=run.record.attempt,
        provenance=json.dumps(described, default=str),
        sampler=RowSampler(job.verify, run.inventory.num_rows, job.seed),
        task=described["task"],
        model=", ".join(part.model.name or "default" for part in job.parts.values()),
    )
    progress = _progress_of(run, plan.describe(), plan.min_workers)
    progress.started_s = started_s
    progress.forecast = saved_forecast(job) if not progress.num_rows_before else None
    _give_up_if_hopeless(progress, job, at_least=ROWS_BEFORE_GIVING_UP)
    num_passes = 0
    while units and num_passes < MAX_PASSES:
        num_rows_before, wave_start_s = run.ledger.num_rows, time.perf_counter()
        wave_rows = plan.chunks.wave_rows if plan.chunks is not None else None
        remaining = read_dataset(source, units, job)
        results = apply_stages(remaining if wave_rows is None else remaining.limit(wave_rows), setup, plan)
        if job.write.rows_per_file is not None:
            results = results.repartition(target_num_rows_per_block=job.write.rows_per_file)
        blocks = results.map_batches(
            partial(write_block, writer=writer), batch_size=None, batch_format="pyarrow", num_cpus=WRITE_CPUS
        )
        with room_for(plan, job.workers):
            _follow(blocks, run, progress, job, lease, start_s, on_progress or (lambda progress: None))
        units = remaining_units(run.inventory, run.ledger, run.only)
        units = without_empty(units, run.inventory, source.schema, source.filesystem)
        num_passes += wave_rows is None or run.ledger.num_rows - num_rows_before < wave_rows
        if plan.chunks is not None and time.perf_counter() - wave_start_s < LEAST_WAVE_S:
            plan = dataclasses.replace(plan, chunks=plan.chunks.with_longer_waves())
    _check_complete(run, units)
    _give_up_if_hopeless(progress, job, at_least=1)
    check_unchanged(run, _files_now(run, job, source))
    lease.check()
    elapsed_s = time.perf_counter() - start_s
    agreement = measure_agreement(rows, setup, plan) if progress.num_blocks else None
    files, sizes = files_of(run)
    report = RunReport.of(progress, described, elapsed_s, files, agreement)
    report = write_report(report, job, progress.samples, source, setup, plan, run.output)
    _finish(run, job, schemas, report, sizes)
    return report


def _prediction_type(run: Run, job: Job) -> pa.DataType | Literal["infer"] | None:
    """The type of results that the run has begun with, or how to find it."""
    if job.prediction_type != "infer":
        return None
    if run.record.result_type is not None:
        return schema_from_text(run.record.result_type).field(RESULT).type
    if run.base_manifest:
        return schema_from_text(run.base_manifest["schemas"][RESULTS]).field(job.output_column).type
    return "infer"


def _progress_of(run: Run, plan: str, num_workers: int) -> Progress:
    """Progress that begins with what an earlier process has written."""
    ledger = run.ledger
    return Progress(
        num_rows_expected=run.inventory.num_rows if run.only is None else len(run.only),
        plan=plan,
        num_workers=num_workers,
        num_rows=ledger.num_rows,
        num_rows_before=ledger.num_rows,
        num_errors=ledger.num_errors,
        reasons=ledger.reasons.copy(),
        counters=ledger.counters.copy(),
    )


def _follow(
    blocks: Dataset, run: Run, progress: Progress, job: Job, lease: Lease, start_s: float, on_progress: OnProgress
) -> None:
    """Runs the dataset of written blocks to its end, adding each to the ledger and to `progress`.

    Raises:
        TooManyErrors: More rows failed than the job allows.
        JobError: Ray gave up, or another run has taken the output.
    """
    import ray

    blocks.context.enable_progress_bars = False
    on_progress(progress)
    try:
        with warnings.catch_warnings():
            # A small input that cannot keep every worker busy is no reason to warn.
            warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
            for block in blocks.iter_rows():
                if run.ledger.add(Commit.from_json(block["commit"])):
                    progress.add(block, time.perf_counter() - start_s)
                if len(progress.samples) > MAX_SAMPLES + job.verify:
                    chosen = (*rows_to_verify(progress.samples, job.verify), *rows_to_show(progress.samples))
                    progress.samples = list({place_of(sample): sample for sample in chosen}.values())
                on_progress(progress)
                lease.check()
                _give_up_if_hopeless(progress, job, at_least=ROWS_BEFORE_GIVING_UP)
    except ray.exceptions.RayError as error:
        raise job_error(error) from error


def _files_now(run: Run, job: Job, source: Input) -> Sequence[SourceFile]:
    """The files of the input as they are at the end.

    Raises:
        StorageError: They cannot be listed, or are all gone.
    """
    # Files of other formats may have come; those of the run are of the one that it began with.
    read = job.read.model_copy(update={"format": run.inventory.read_format})
    try:
        return find_files(read, source.filesystem)[1]
    except ConfigError as error:
        raise StorageError(str(error)) from None


def _check_complete(run: Run, units: Sequence[Remaining]) -> None:
    """Raises unless every row of the input counts once.

    Raises:
        JobError: Rows are missing.
    """
    if units:
        paths = sorted({unit.planned.unit.file.path for unit in units})
        raise JobError(
            f"audit: expected every row of the input in results or dead letters; rows of {len(paths):,} file(s) are "
            f"missing, such as {paths[0]}. What is written stays: run the same job again."
        )


def files_of(run: Run) -> tuple[dict[str, list[str]], dict[str, dict[str, int]]]:
    """The files of results and of dead letters that the manifest will list, and the sizes of each.

    Raises:
        JobError: One that the run has written is not there any more.
    """
    base = run.base_manifest
    files: dict[str, list[str]] = {RESULTS: list(base.get("files", {}).get(RESULTS, ())), DEAD_LETTERS: []}
    sizes = {name: base["file_sizes"][name] for name in files[RESULTS]}
    on_disk = {**run.output.folder.sizes(RESULTS), **run.output.folder.sizes(DEAD_LETTERS)}
    lost: list[str] = []
    for commit in run.ledger.commits():
        for kind, written in ((RESULTS, commit.results), (DEAD_LETTERS, commit.dead_letters)):
            files[kind] += [file.path for file in written]
            sizes.update({file.path: file.sizes() for file in written})
            lost += [file.path for file in written if on_disk.get(file.path) != file.num_bytes]
    if lost:
        raise JobError(
            f"audit: expected every file that was written; {len(lost):,} file(s) in {run.output.path} are gone or have "
            f"changed, such as {lost[0]}. What is there stays: run the same job again."
        )
    return {kind: sorted(names) for kind, names in files.items()}, sizes


def _finish(
    run: Run, job: Job, schemas: Mapping[str, str], report: RunReport, sizes: Mapping[str, Mapping[str, int]]
) -> None:
    """Writes the manifest."""
    files, base = report.files(), run.base_manifest
    num_results, num_errors = (sum(sizes[name]["num_rows"] for name in files[kind]) for kind in (RESULTS, DEAD_LETTERS))
    assert run.base_manifest or (num_results, num_errors) == (report.num_results, report.num_errors)
    run.finish(
        {
            **report.provenance,
            "num_rows": num_results + num_errors,
            "num_results": num_results,
            "num_errors": num_errors,
            "attempt": run.record.attempt,
            "configuration": run.record.configuration,
            "fingerprint": digest_of(run.record.configuration),
            "job": base.get("job") or job_values(job),
            "schemas": base.get("schemas") or schemas,
            "runs": [*base.get("runs", ()), report.provenance],
            "files": files,
            "file_sizes": sizes,
        }
    )


def check_schemas(run: Run, schemas: Mapping[str, str]) -> None:
    """Raises if a retry's results would not have the columns of the others.

    Raises:
        ConfigError: They would not.
    """
    then, now = (schema_from_text(one[RESULTS]) for one in (run.base_manifest.get("schemas", schemas), schemas))
    if then != now:
        before, after = ({field.name: str(field.type) for field in schema} for schema in (then, now))
        changed = "; ".join(differences(before, after))
        raise ConfigError(f"retry: expected the columns of the run's results; {changed}. Drop what changes them.")


def setup_of_job(
    spec: PipelineSpec | PipelinesSpec,
    source: Input,
    plan: WorkerPlan,
    rows: Dataset,
    prediction_type: pa.DataType | Literal["infer"] | None = None,
) -> AnySetup:
    """What the workers of a job load."""
    if isinstance(spec, PipelinesSpec):
        return spec.worker_setup(source.inputs, plan, rows)
    return spec.worker_setup(source.inputs[spec.output_column], plan, rows, prediction_type)


def _schemas(source: Input, setup: AnySetup) -> dict[str, str]:
    """The columns of results and of dead letters, where there may be no file that shows them."""
    kept = [source.schema.field(name) for name in source.kept_columns]
    places = [pa.field(SOURCE_COLUMN, pa.string()), pa.field(ROW_COLUMN, pa.int64())]
    errors = empty_table(pa.schema([*kept, *places, pa.field(ERROR_COLUMN, ERROR_TYPE)]))
    letters = dead_letters(errors, source.kept_columns, 1).schema
    results = pa.schema([*kept, *(pa.field(name, part.result_type) for name, part in setup.parts.items())])
    return {RESULTS: schema_to_text(results), DEAD_LETTERS: schema_to_text(letters)}


def job_error(error: BaseException) -> RayPipelinesError:
    """The error of this package that Ray has wrapped or told, or a `JobError` with the innermost reason."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        if isinstance(current, RayPipelinesError):
            return current
        current = getattr(current, "cause", None) or current.__cause__
    reason = _innermost_reason(str(error))
    told = reason.removeprefix(f"{errors.__name__}.")
    name, _, message = told.partition(": ")
    kind = getattr(errors, name, None) if told != reason else None
    if isinstance(kind, type) and issubclass(kind, JobError):
        return kind(message)
    return JobError(told)


def _innermost_reason(text: str) -> str:
    """The last line of Ray's text that names an exception."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    wrapped = {"Error", "Exception", "Died", *re.findall(r"RayTaskError\((\w+)\)", text)}
    exception = re.compile(rf"\s*[\w.]*({'|'.join(wrapped)}):|[^\W\d]\w*(\.\w+)+: ")
    named = [line.strip() for line in lines if exception.match(line)]
    # Ray wraps what a worker raises, and its own words come last.
    named = [line for line in named if not line.startswith("ray.exceptions.UserCodeException")] or named
    return named[-1] if named else lines[-1].strip() if lines else "Ray gave no reason"


def _give_up_if_hopeless(progress: Progress, job: Job, at_least: int) -> None:
    """Raises once too many rows have failed; a share of the rows is looked at when there are `at_least` of them.

    Raises:
        TooManyErrors: They have.
    """
    num_rows, num_errors = progress.num_rows, progress.num_errors
    if job.max_errors is not None and num_errors > job.max_errors:
        limit = f"max_errors: expected at most {job.max_errors:,} rows to fail"
    elif num_rows >= at_least and num_errors > job.max_error_rate * num_rows:
        limit = f"max_error_rate: expected at most {job.max_error_rate:.1%} of the rows to fail"
    else:
        return
    frequent = "; ".join(f"{reason} ({count:,})" for reason, count in progress.reasons.most_common(3))
    raise TooManyErrors(
        f"{limit}; {num_errors:,} of {num_rows:,} did. Most frequent: {frequent}. See {job.write.path}/dead_letters. "
        "What is written stays: with a higher limit, the same job goes on from here."
    )
