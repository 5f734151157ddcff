"""The figures of a run, while it goes on and when it is done."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ray_pipelines.engine.counters import MAX_LEFT_OUT, Counters
from ray_pipelines.report.agreement import Agreement
from ray_pipelines.report.figures import Figures
from ray_pipelines.report.forecast import Forecast

__all__ = ["Progress", "RunReport"]

MAX_TIMELINE_POINTS = 240


@dataclass
class Progress:
    """What a run has done so far.

    Attributes:
        num_rows_expected: Rows of the input, where the files tell.
        plan: The workers, in one line.
        num_workers: Workers that run at the same time.
        counters: What the written rows have cost.
        num_rows: Rows that are written, dead letters included.
        num_errors: Dead letters.
        num_blocks: Blocks that are written.
        elapsed_s: Seconds since the start.
        started_s: When the run started (Unix time, as the next one).
        last_written_s: When the last block was written.
        reasons: How often each stage and type of error occurred.
        num_rows_before: Rows of these that an earlier, interrupted run has written.
        timeline: (elapsed_s, num_rows) after some of the blocks, evenly spread and bounded in number.
        samples: Some of the rows with results, as `data/sampling.py` picks them.
        forecast: How long the run would take, foretold by a plan or by its own first rows.
    """

    num_rows_expected: int | None
    plan: str
    num_workers: int = 1
    counters: Counters = field(default_factory=Counters)
    num_rows: int = 0
    num_errors: int = 0
    num_blocks: int = 0
    elapsed_s: float = 0.0
    started_s: float = field(default_factory=time.time)
    last_written_s: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    num_rows_before: int = 0
    timeline: list[tuple[float, int]] = field(default_factory=list)
    samples: list[Mapping[str, Any]] = field(default_factory=list)
    forecast: Forecast | None = None
    _points_apart: int = 1

    def add(self, block: Mapping[str, Any], elapsed_s: float) -> None:
        """Adds one written block, as `data.write.BLOCK_STATS` describes it."""
        self.num_rows += block["num_rows"]
        self.num_errors += block["num_errors"]
        self.num_blocks += 1
        self.elapsed_s = elapsed_s
        self.counters.add(Counters.from_json(block["counters"]))
        self.last_written_s = max(self.last_written_s, block["written_s"])
        self.reasons.update({error["reason"]: error["count"] for error in block["errors"]})
        self.samples += block.get("samples") or []
        self._note_time()

    def _note_time(self) -> None:
        if self.num_blocks % self._points_apart:
            return
        self.timeline.append((self.elapsed_s, self.num_rows))
        if len(self.timeline) > MAX_TIMELINE_POINTS:
            self.timeline, self._points_apart = self.timeline[1::2], self._points_apart * 2
        if self.forecast is None and self.num_blocks > 1 and self.num_rows_expected:
            self.forecast = Forecast.of_first_rows(
                self.num_rows_expected, self.num_rows, self.rows_per_s, self.elapsed_s
            )

    @property
    def eta_s(self) -> float | None:
        """Seconds that are left, where the files tell how many rows there are."""
        if not self.num_rows_expected or not self.rows_per_s:
            return None
        return max(0, self.num_rows_expected - self.num_rows) / self.rows_per_s

    @property
    def startup_s(self) -> float:
        """Seconds until a worker first had rows."""
        return max(0.0, self.counters.begun_s - self.started_s) if self.counters.begun_s else 0.0

    @property
    def rows_per_s(self) -> float:
        """Rows per second since a worker first had some, by the clocks of those who worked and wrote."""
        seconds = self.last_written_s - self.counters.begun_s if self.counters.begun_s else 0.0
        return (self.num_rows - self.num_rows_before) / seconds if seconds > 0 else 0.0

    @property
    def figures(self) -> Figures:
        """What the run's time has gone to so far."""
        return Figures.of(self.counters, self.rows_per_s, self.num_workers)

    @property
    def figures_of_tasks(self) -> dict[str, Figures]:
        """The same of each task, where a job has several."""
        parts = self.counters.parts
        return {name: Figures.of(own, self.rows_per_s, self.num_workers) for name, own in parts.items()}


@dataclass(frozen=True)
class RunReport:
    """What a finished run did: `report.json`.

    Attributes:
        provenance: Run id, task, model and its commit, parameters, versions.
        num_rows: Rows of the input.
        num_rows_before: Rows of these that an earlier, interrupted run has written.
        num_results: Rows with a prediction.
        num_errors: Dead letters.
        reasons: How often each stage and type of error occurred.
        elapsed_s: Seconds in all.
        startup_s: Seconds until a worker first had rows.
        rows_per_s: Rows per second after that.
        plan: The workers, in one line.
        figures: What the time went to, and what to change next.
        results_files, dead_letters_files: The files, below the output's folder.
        agreement: How far results agree with float32, where something was asked for that changes them.
        timeline: (elapsed_s, num_rows) from start to end.
        cost_counts: How many chunks had a cost of less than 2 ** n and not less than half of that, by n as text.
        forecast: How long the run was expected to take.
        price_per_hour: Price of the machines.
        certificate: How far sampled results agree with the plain pipeline in float32, where that was asked for.
        left_out: Key or field that no sampled row had and so no column holds: rows that have one; most frequent first.
        tasks: Of a job of several tasks: what the time of each went to, by its column of results.
    """

    provenance: Mapping[str, Any]
    num_rows: int
    num_rows_before: int
    num_results: int
    num_errors: int
    reasons: Mapping[str, int]
    elapsed_s: float
    startup_s: float
    rows_per_s: float
    plan: str
    figures: Figures
    results_files: tuple[str, ...]
    dead_letters_files: tuple[str, ...]
    agreement: Agreement | None = None
    timeline: tuple[tuple[float, int], ...] = ()
    cost_counts: Mapping[str, int] = field(default_factory=dict)
    forecast: Forecast | None = None
    price_per_hour: float | None = None
    certificate: Agreement | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    tasks: Mapping[str, Figures] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        progress: Progress,
        provenance: Mapping[str, Any],
        elapsed_s: float,
        files: Mapping[str, Sequence[str]] = MappingProxyType({}),
        agreement: Agreement | None = None,
    ) -> RunReport:
        """The report of a run whose last block is written, in `files` of results and dead letters."""
        return cls(
            provenance=provenance,
            num_rows=progress.num_rows,
            num_rows_before=progress.num_rows_before,
            num_results=progress.num_rows - progress.num_errors,
            num_errors=progress.num_errors,
            reasons=dict(progress.reasons.most_common()),
            elapsed_s=elapsed_s,
            startup_s=progress.startup_s,
            rows_per_s=progress.rows_per_s,
            plan=progress.plan,
            figures=progress.figures,
            results_files=tuple(files.get("results", ())),
            dead_letters_files=tuple(files.get("dead_letters", ())),
            agreement=agreement,
            timeline=tuple(progress.timeline),
            cost_counts=dict(progress.counters.cost_counts),
            forecast=progress.forecast,
            left_out=dict(progress.counters.left_out),
            tasks=progress.figures_of_tasks,
        )

    @property
    def cost(self) -> dict[str, float] | None:
        """What the run has cost, and what a million rows cost at its price; None without a price."""
        if self.price_per_hour is None:
            return None
        run = self.price_per_hour * self.elapsed_s / 3600
        return {"run": run, "million_rows": run / self.num_rows * 1e6 if self.num_rows else 0.0}

    def counts(self) -> dict[str, int]:
        """Rows, results and dead letters."""
        return {"num_rows": self.num_rows, "num_results": self.num_results, "num_errors": self.num_errors}

    def files(self) -> dict[str, list[str]]:
        """The files that belong to the run."""
        return {"results": list(self.results_files), "dead_letters": list(self.dead_letters_files)}

    def more_left_out(self, num_shown: int) -> str:
        """How many names were left out besides the first `num_shown`, in words; nothing if there are no more."""
        num_more = len(self.left_out) - num_shown
        least = "at least " if len(self.left_out) >= MAX_LEFT_OUT else ""
        return f"and {least}{num_more:,} more" if num_more > 0 else ""

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return {
            **self.provenance,
            **self.counts(),
            "num_rows_before": self.num_rows_before,
            "errors": dict(self.reasons),
            "elapsed_s": round(self.elapsed_s, 3),
            "startup_s": round(self.startup_s, 3),
            "rows_per_s": round(self.rows_per_s, 2),
            "workers": self.plan,
            "figures": self.figures.as_dict(),
            "agreement": self.agreement.as_dict() if self.agreement is not None else None,
            "timeline": [[round(elapsed_s, 3), num_rows] for elapsed_s, num_rows in self.timeline],
            "cost_counts": {f"<{1 << int(n)}": count for n, count in sorted(self.cost_counts.items(), key=_number)},
            "forecast": self.forecast.as_dict(self.elapsed_s) if self.forecast else None,
            "price": {name: round(value, 6) for name, value in self.cost.items()} if self.cost else None,
            "certificate": self.certificate.as_dict() if self.certificate else None,
            "left_out": dict(self.left_out),
            "figures_of_tasks": {name: figures.as_dict() for name, figures in self.tasks.items()},
        }


def _number(item: tuple[str, int]) -> int:
    return int(item[0])
