"""The speed of a run, by the clocks of those who made and wrote its blocks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ray_pipelines.report.metrics import Progress


def block(begun_s: float, written_s: float, num_rows: int = 100) -> dict[str, Any]:
    return {
        "num_rows": num_rows,
        "num_errors": 0,
        "counters": json.dumps({"worker_s": 1.0, "begun_s": begun_s}),
        "written_s": written_s,
        "errors": [],
    }


def progress_of(*blocks: dict[str, Any]) -> Progress:
    progress = Progress(num_rows_expected=None, plan="", started_s=100)
    for made in blocks:
        progress.add(made, elapsed_s=made["written_s"])
    return progress


@pytest.mark.parametrize(
    ("blocks", "startup_s", "rows_per_s"),
    [
        ([block(108, 110)], 8, 50),
        ([block(108, 110), block(110, 112), block(112, 114)], 8, 50),
        # Two workers that begin at the same time: their first blocks are no start-up of each other.
        ([block(108, 110), block(108, 110)], 8, 100),
    ],
)
def test_speed_counts_from_when_a_worker_first_has_rows(
    blocks: list[dict[str, Any]], startup_s: float, rows_per_s: float
) -> None:
    progress = progress_of(*blocks)
    assert progress.startup_s == pytest.approx(startup_s)
    assert progress.rows_per_s == pytest.approx(rows_per_s)


def test_nothing_written_has_no_speed() -> None:
    assert progress_of().rows_per_s == progress_of().startup_s == 0
