"""How a terminal shows a plan: the input, some decoded rows, the workers, and what it would take."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.markup import escape
from rich.table import Table

from ray_pipelines.report.html import duration
from ray_pipelines.report.plan import JobPlan
from ray_pipelines.report.values import one_line

__all__ = ["plan_table", "sample_table"]


def sample_table(plan: JobPlan) -> Table:
    """Some rows as the task sees them, with their results."""
    table = Table(title="some rows, decoded", title_justify="left")
    for name in ("row", "input", "result"):
        table.add_column(name, overflow="fold")
    for sample in plan.samples:
        named = len(sample.inputs) > 1
        inputs = [
            f"{name}: {_described(value)}" if named else _described(value) for name, value in sample.inputs.items()
        ]
        place = sample.place.rpartition("/")[2]
        results = [
            f"{name}: {_described(value)}" if name else _described(value) for name, value in sample.results.items()
        ]
        table.add_row(escape(place), escape("\n".join(inputs)), escape("\n".join(results)))
    return table


def plan_table(plan: JobPlan) -> Table:
    """What the job would do and take."""
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column()
    trial, figures = plan.trial, plan.figures
    about = "about " if plan.is_estimated else ""
    rows = f"{about}{plan.num_rows:,}" if plan.num_rows is not None else "unknown"
    table.add_row("rows", f"{rows} in {plan.num_files:,} file(s)")
    table.add_row("columns", escape(", ".join(f"{column.name}: {column.type}" for column in plan.schema)))
    table.add_row("workers", escape(plan.workers))
    limit = f"{figures.budget:,} {figures.cost_unit}" if figures.budget else "any cost"
    table.add_row("batches", f"{figures.chunks_per_forward:,.1f} per forward on average, at most {limit}")
    mean = figures.cost / max(1, trial.num_rows)
    table.add_row("inputs", f"{mean:,.0f} {figures.cost_unit} per row, {figures.padding:.1%} padding")
    shares = sorted(figures.step_shares.items(), key=lambda share: -share[1])
    table.add_row("time in", ", ".join(f"{step} {share:.0%}" for step, share in shares if share >= 0.005))
    table.add_row("memory", _memory(plan))
    table.add_row("sample", f"{trial.num_rows:,} rows in {sum(trial.seconds):.2f} s on one worker, {_failed(plan)}")
    if plan.forecast is None:
        table.add_row("forecast", "none: the number of rows is unknown, or no row came through")
        return table
    low, high = duration(plan.forecast.low_s), duration(plan.forecast.high_s)
    table.add_row("speed", f"about {plan.forecast.rows_per_s:,.0f} rows/s")
    table.add_row("takes", f"[bold]{duration(plan.forecast.total_s)}[/] ({low} to {high}), start-up included")
    hours = plan.gpu_hours()
    if hours is not None:
        table.add_row("GPU-hours", f"[bold]{hours[0]:,.3g}[/] ({hours[1]:,.3g} to {hours[2]:,.3g})")
    return table


def _described(value: Any) -> str:
    return "nothing: the row failed, or is null" if value is None else one_line(value)


def _memory(plan: JobPlan) -> str:
    trial = plan.trial
    where = "the GPU's" if plan.num_gpus else "the node's"
    share = trial.peak_bytes / trial.total_bytes if trial.total_bytes else 0.0
    text = (
        f"{_gib(trial.weight_bytes)} of weights; {_gib(trial.peak_bytes)} at most of {where} {_gib(trial.total_bytes)}"
    )
    return f"{text} [red](tight)[/]" if share > 0.9 else f"{text} ({share:.0%})"


def _failed(plan: JobPlan) -> str:
    if not plan.trial.reasons:
        return "all of them well"
    reason, count = Counter(plan.trial.reasons).most_common(1)[0]
    return f"[red]{len(plan.trial.reasons):,} failed[/], most often {count:,} x {escape(one_line(reason))}"


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.2f} GiB" if num_bytes >= 2**28 else f"{num_bytes / 2**20:,.1f} MiB"
