"""What a run leaves besides its results: `report.json`, `report.html`, and how right the plan was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_pipelines import media, tasks
from ray_pipelines.config import Job, split_inputs
from ray_pipelines.data.fetch import fetched
from ray_pipelines.data.formats import ROW_COLUMN, SOURCE_COLUMN
from ray_pipelines.data.output import HTML_REPORT, REPORT, STAGED, Output
from ray_pipelines.data.sampling import place_of, prediction_of, read_places, rows_to_show
from ray_pipelines.data.verify import certify
from ray_pipelines.errors import RowError, attempt
from ray_pipelines.report.forecast import Forecast
from ray_pipelines.report.html import html_report
from ray_pipelines.report.metrics import RunReport
from ray_pipelines.report.samples import Sample
from ray_pipelines.report.values import AUDIO_RATE

if TYPE_CHECKING:
    import pyarrow as pa

    from ray_pipelines.data.read import Input
    from ray_pipelines.data.resources import WorkerPlan
    from ray_pipelines.data.several import AnySetup

__all__ = ["save_forecast", "saved_forecast", "write_report"]


def write_report(
    report: RunReport,
    job: Job,
    samples: Sequence[Mapping[str, Any]],
    source: Input,
    setup: AnySetup,
    plan: WorkerPlan,
    output: Output,
) -> RunReport:
    """Writes the report of a run as JSON and HTML, for its end; gives it with its price and certificate.

    Args:
        report: What the run measured.
        job: The job.
        samples: Rows that were chosen while they were written.
        source: The input, of which these rows are read again.
        setup: What the workers have loaded.
        plan: What each of them had.
        output: Where to.
    """
    report = dataclasses.replace(report, price_per_hour=job.price_per_hour)
    if job.verify:
        report = dataclasses.replace(report, certificate=certify(job.verify, samples, source, setup, plan))
    output.write_json(STAGED[REPORT], report.as_dict())
    shown = samples_to_show(job, source, samples)
    output.write_bytes(STAGED[HTML_REPORT], html_report(report, shown).encode())
    return report


def samples_to_show(job: Job, source: Input, samples: Sequence[Mapping[str, Any]]) -> list[Sample]:
    """Some rows with their inputs, decoded, and their results."""
    chosen = {place_of(sample): sample for sample in rows_to_show(samples)}
    found = []
    for row in read_places(source, chosen):
        place = (row[SOURCE_COLUMN][0].as_py(), row[ROW_COLUMN][0].as_py())
        result = prediction_of(chosen[place], bool(job.tasks))
        found.append(Sample(f"{place[0]}#{place[1]}", inputs_of(row, job, source), result, bool(job.tasks)))
    return sorted(found, key=lambda sample: sample.place)


def inputs_of(row: pa.Table, job: Job, source: Input) -> dict[str, Any]:
    """The inputs of one row as people look at them; those that cannot be decoded as errors."""
    modalities: dict[str, str] = {}
    values: dict[str, Any] = {}
    for column_of_results, part in job.parts.items():
        task = tasks.resolve(part.task, has_own_pipeline=True)
        for name, column in split_inputs(source.inputs[column_of_results])[0].items():
            # Several tasks may call one column differently, or look at different ones.
            shown = column if job.tasks else name
            values[shown] = row[column][0].as_py()
            modalities[shown] = next((field.modality for field in task.inputs if field.name == name), "any")
    fields = next(fetched([values], modalities, job.limits, source.filesystem))
    if isinstance(fields, RowError):
        return {"input": str(fields)}
    inputs: dict[str, Any] = {}
    for name, value in fields.items():
        modality = modalities.get(name, "any")
        if modality in ("image", "images", "audio") and value is not None:
            value = attempt("decode", partial(media.decode, value, modality, job.limits, AUDIO_RATE))
        inputs[name] = str(value) if isinstance(value, RowError) else value
    return inputs


def save_forecast(job: Job, forecast: Forecast) -> None:
    """Keeps what a plan foretold of a job for the run that may follow on this machine."""
    path = _forecast_path(job)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dataclasses.asdict(forecast)))


def saved_forecast(job: Job) -> Forecast | None:
    """What a plan on this machine has foretold of just this job; None if there was none."""
    path = _forecast_path(job)
    found = attempt("read", lambda: Forecast(**json.loads(path.read_text())))
    return None if isinstance(found, RowError) else found


def _forecast_path(job: Job) -> Path:
    """A file in the user's cache, named by all settings that matter for speed."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    settings = job.model_dump_json(exclude={"write", "price_per_hour", "verify"})
    digest = hashlib.blake2b(settings.encode(), digest_size=12).hexdigest()
    return base / "ray_pipelines" / "plans" / f"{digest}.json"
