"""How a terminal shows a run: a live line while it goes on, a table and some predictions when it is done."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.table import Table

from ray_pipelines.arrow import python_rows
from ray_pipelines.report.figures import Figures
from ray_pipelines.report.html import duration
from ray_pipelines.report.metrics import Progress, RunReport
from ray_pipelines.report.values import one_line

__all__ = [
    "DEAD_LETTERS_LINE",
    "filtered_stderr",
    "live_progress",
    "prediction_table",
    "rows_to_print",
    "summary_table",
]

QUIET_INTERVAL_S = 10.0
NOISE = re.compile(
    rb"core_worker\.cc:\d+: Actor with class name: .* has constructor arguments in the object store"
    rb"|Task ServeController\.graceful_shutdown failed"
)
MAX_CELL_CHARS = 60
SHOWN_LEFT_OUT = 5
DEAD_LETTERS_LINE = "ray-pipelines: done, with dead letters"
"""How a run that ends with 0 although it has dead letters says so; `data/submit.py` looks for it in the log."""


@contextmanager
def filtered_stderr() -> Iterator[Console]:
    """A console on the real standard error, while lines that mislead are taken out of what else is written there.

    Ray's C++ core warns at every pool of actors that restarts will fail if the pool's arguments are lost, which they
    are not (ray-project/ray#53727), and has no setting for it; and it may call the end of Serve's controller, which
    ends itself when it is told to, a failure.
    """
    sys.stderr.flush()
    real, copied, (source, sink) = os.dup(2), os.dup(2), os.pipe()
    os.dup2(sink, 2)
    os.close(sink)

    def copy() -> None:
        with os.fdopen(source, "rb") as lines, os.fdopen(copied, "wb", buffering=0) as target:
            for line in lines:
                if not NOISE.search(line):
                    target.write(line)

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    try:
        with os.fdopen(os.dup(real), "w") as file:
            yield Console(file=file)
    finally:
        sys.stderr.flush()
        os.dup2(real, 2)
        os.close(real)
        thread.join(timeout=1)


class ProgressDisplay:
    """Shows progress: a bar in a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console, bar: Bar | None) -> None:
        self._console = console
        self._bar = bar
        self._task = bar.add_task("starting workers", total=None, speed="", errors="") if bar else None
        self._shown_s = time.monotonic()
        self._has_spoken = False

    def __call__(self, progress: Progress) -> None:
        """Shows `progress`."""
        speed = _speed(progress) if progress.num_rows else ""
        errors = f"{progress.num_errors:,} dead letters" if progress.num_errors else ""
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task,
                completed=progress.num_rows,
                total=progress.num_rows_expected,
                description="running" if progress.num_rows else "starting workers",
                speed=speed,
                errors=errors,
            )
        elif progress.num_rows and time.monotonic() - self._shown_s >= QUIET_INTERVAL_S:
            self._shown_s = time.monotonic()
            self._say(progress)

    def end(self, progress: Progress) -> None:
        """Says how it ended, if lines have been shown."""
        if self._has_spoken:
            self._say(progress)

    def _say(self, progress: Progress) -> None:
        of = f" of {progress.num_rows_expected:,}" if progress.num_rows_expected else ""
        left = f", {duration(progress.eta_s)} left" if progress.eta_s else ""
        errors = f"{progress.num_errors:,} dead letters"
        self._console.print(f"{progress.num_rows:,}{of} rows, {_speed(progress)}, {errors}{left}", highlight=False)
        self._has_spoken = True


def _speed(progress: Progress) -> str:
    """Rows per second, and how busy the device is once that is known."""
    busy = progress.figures.device_busy
    return f"{progress.rows_per_s:,.0f} rows/s" + (f", device {busy:.0%} busy" if busy else "")


@contextmanager
def live_progress(console: Console) -> Iterator[ProgressDisplay]:
    """A display to call with each `Progress`."""
    if not console.is_terminal:
        yield ProgressDisplay(console, None)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("[cyan]{task.fields[speed]}"),
        TextColumn("[red]{task.fields[errors]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        yield ProgressDisplay(console, bar)


def summary_table(report: RunReport, path: str) -> Table:
    """The figures of a run."""
    shown_path = escape(path)
    table = Table(title=escape(f"{report.provenance['task']} with {report.provenance['model']}"), show_header=False)
    table.add_column(style="bold")
    table.add_column()
    before = f", {report.num_rows_before:,} of them by an earlier, interrupted run" if report.num_rows_before else ""
    table.add_row("rows", f"{report.num_rows:,}{before}")
    table.add_row("results", f"{report.num_results:,}  in {shown_path}/results/")
    if report.num_errors:
        table.add_row("dead letters", f"[red]{report.num_errors:,}[/]  in {shown_path}/dead_letters/")
        for reason, count in report.reasons.items():
            table.add_row("", escape(f"{count:,} x {reason}"))
    for name, count in list(report.left_out.items())[:SHOWN_LEFT_OUT]:
        table.add_row(
            "left out", f"[red]{escape(name)}[/], in {count:,} row(s): no sampled row has it, so no column does"
        )
    if more := report.more_left_out(SHOWN_LEFT_OUT):
        table.add_row("", more)
    table.add_row("speed", f"{report.rows_per_s:,.0f} rows/s after {report.startup_s:.1f} s of start-up")
    table.add_row(
        "time", report.forecast.describe(report.elapsed_s) if report.forecast else f"{report.elapsed_s:.1f} s"
    )
    if report.cost:
        table.add_row("cost", f"{report.cost['run']:,.4g}, or {report.cost['million_rows']:,.4g} per million rows")
    if report.certificate is not None:
        table.add_row("verified", str(report.certificate))
    for name, figures in report.tasks.items():
        table.add_row(escape(name), escape(figures.share_of(report.figures)))
    for name, text in _figure_rows(report.figures):
        table.add_row(name, text)
    if report.agreement is not None:
        table.add_row("agreement", str(report.agreement))
    table.add_row("workers", report.plan)
    table.add_row("run", str(report.provenance["run_id"]))
    table.add_row("report", f"{shown_path}/report.html")
    return table


def _figure_rows(figures: Figures) -> list[tuple[str, str]]:
    """What the time went to, in a few lines."""
    if not figures.forwards:
        return []
    inputs = f"{figures.cost_per_s:,.0f} {figures.cost_unit}/s, {figures.padding:.1%} padding"
    batches = f"{figures.chunks_per_forward:,.1f} per forward"
    if figures.budget:
        batches += f", at most {figures.budget:,} {figures.cost_unit}"
    rows = [("inputs", inputs), ("batches", batches)]
    found = {
        "cut at the maximum length": figures.truncated_rows,
        "batches halved, out of memory": figures.out_of_memory_splits,
        "forwards to find rows that fail": figures.extra_forwards,
    }
    if figures.compiled_graphs:
        rows.append(("warm-up", f"{figures.compiled_graphs} graphs compiled in {figures.warmup_s:.1f} s"))
    rows += [("", f"{count:,} {what}") for what, count in found.items() if count]
    shares = sorted(figures.step_shares.items(), key=lambda share: -share[1])
    rows.append(("time in", ", ".join(f"{step} {share:.0%}" for step, share in shares if share >= 0.005)))
    rows.append(("device", f"busy {figures.device_busy:.0%} of the time, {figures.device}, {figures.dtype}"))
    rows.append(("next", figures.advice))
    return rows


def rows_to_print(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table as Python values; as texts those that Python has not, such as dates after the year 9999."""

    def as_text(name: str, column: pa.ChunkedArray, error: Exception) -> list[Any]:
        is_text = pa.types.is_temporal(column.type) and not pa.types.is_duration(column.type)
        return column.cast(pa.string()).to_pylist() if is_text else ["…"] * len(column)

    return python_rows(table, as_text)


def prediction_table(rows: list[dict[str, Any]], title: str = "the first predictions") -> Table:
    """Some rows of the results, cut to what a terminal holds."""
    table = Table(title=title)
    names = list(rows[0]) if rows else []
    for name in names:
        table.add_column(escape(name), overflow="fold")
    for row in rows:
        table.add_row(*("" if row[name] is None else escape(one_line(row[name], MAX_CELL_CHARS)) for name in names))
    return table
