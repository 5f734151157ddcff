"""What `ray-pipelines plan` has found: what some rows took, and what follows for all of them."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import pyarrow as pa

from ray_pipelines.engine.counters import Counters
from ray_pipelines.report.figures import Figures
from ray_pipelines.report.forecast import Forecast
from ray_pipelines.report.samples import Sample

__all__ = ["JobPlan", "Trial"]


@dataclass(frozen=True)
class Trial:
    """What a worker took for some rows.

    Attributes:
        num_rows: Rows that were timed.
        seconds: What each part of them took.
        part_rows: How many rows each part had.
        startup_s: What loading took, from the request for a worker on.
        counters: What the rows were counted for.
        weight_bytes: Size of the model's parameters.
        peak_bytes: Most memory in use: of the GPU, or of the worker's process.
        total_bytes: What the GPU, or the node, has.
        reasons: Why rows failed.
    """

    num_rows: int
    seconds: tuple[float, ...]
    part_rows: tuple[int, ...]
    startup_s: float
    counters: Counters
    weight_bytes: int
    peak_bytes: int
    total_bytes: int
    reasons: tuple[str, ...]

    @property
    def rows_per_s(self) -> float:
        """Rows per second of this one worker."""
        return self.num_rows / sum(self.seconds) if self.seconds else 0.0

    @property
    def spread(self) -> float:
        """Standard error of the time per row, as a share of it: how much the parts differ."""
        per_row = [seconds / rows for seconds, rows in zip(self.seconds, self.part_rows, strict=True) if rows]
        if len(per_row) < 2:
            return 0.5
        return statistics.stdev(per_row) / statistics.fmean(per_row) / math.sqrt(len(per_row))


@dataclass(frozen=True)
class JobPlan:
    """What a job would do and take.

    Attributes:
        schema: The columns that are read.
        num_files: Files of the input.
        num_rows: Rows of the input; None for unknown.
        is_estimated: Whether that is only estimated, from bytes.
        workers: The workers, in one line.
        num_workers: How many run at the same time.
        num_gpus: GPUs of each.
        samples: Some rows, decoded, with their results.
        trial: What the sample took.
        figures: What its time went to.
        forecast: Speed and time of the whole; None without a number of rows, or if no row succeeded.
    """

    schema: pa.Schema
    num_files: int
    num_rows: int | None
    is_estimated: bool
    workers: str
    num_workers: int
    num_gpus: float
    samples: tuple[Sample, ...]
    trial: Trial
    figures: Figures
    forecast: Forecast | None

    def gpu_hours(self) -> tuple[float, float, float] | None:
        """GPU-hours: expected, least, most; None without GPUs or a forecast."""
        if self.forecast is None or not self.num_gpus:
            return None
        per_s = self.num_workers * self.num_gpus / 3600
        return self.forecast.total_s * per_s, self.forecast.low_s * per_s, self.forecast.high_s * per_s
