"""The speed of a run, by the clocks of those who wrote its blocks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ray_pipelines.report.metrics import Progress


def block(written_s: float, worker_s: float, num_rows: int = 100) -> dict[str, Any]:
    return {
        "num_rows": num_rows,
        "num_errors": 0,
        "counters": json.dumps({"worker_s": worker_s}),
        "written_s": written_s,
        "errors": [],
    }


def progress_of(*blocks: dict[str, Any]) -> Progress:
    progress = Progress(num_rows_expected=None, plan="")
    for made in blocks:
        progress.add(made, elapsed_s=made["written_s"])
    return progress


@pytest.mark.parametrize(
    ("blocks", "startup_s", "rows_per_s"),
    [
        ([block(10, 2)], 8, 50),
        ([block(10, 2), block(12, 2), block(14, 2)], 8, 50),
        # Two workers that begin at the same time: their first blocks are no start-up of each other.
        ([block(10, 2), block(10.1, 2.1)], 8, 200 / 2.1),
        # All workers together have worked longer on the chunks of a block than the run takes.
        ([block(10, 40)], 0, 10),
    ],
)
def test_speed_counts_from_when_the_first_worker_begins(
    blocks: list[dict[str, Any]], startup_s: float, rows_per_s: float
) -> None:
    progress = progress_of(*blocks)
    assert progress.startup_s == pytest.approx(startup_s)
    assert progress.rows_per_s == pytest.approx(rows_per_s)


def test_nothing_written_has_no_speed() -> None:
    assert progress_of().rows_per_s == 0
