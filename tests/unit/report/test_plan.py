"""What a plan foretells, and how right it was."""

from __future__ import annotations

import pytest

from ray_pipelines.data.plan import foretell
from ray_pipelines.data.resources import WorkerPlan
from ray_pipelines.engine.counters import Counters
from ray_pipelines.report.forecast import Forecast
from ray_pipelines.report.plan import Trial


def trial_of(*seconds: float, **counters: float) -> Trial:
    return Trial(
        num_rows=10 * len(seconds),
        seconds=seconds,
        part_rows=(10,) * len(seconds),
        startup_s=5.0,
        counters=Counters(**counters),  # type: ignore[arg-type]
        weight_bytes=1,
        peak_bytes=1,
        total_bytes=10,
        reasons=(),
    )


def workers(number: int, stages: str = "fused", num_gpus: float = 0) -> WorkerPlan:
    return WorkerPlan(stages, number, number, 1, num_gpus, 1)  # type: ignore[arg-type]


def test_more_workers_are_faster_and_start_up_is_not() -> None:
    one = foretell(trial_of(1.0, 1.0, 1.0), workers(1), 10_000, num_cpus=8)
    four = foretell(trial_of(1.0, 1.0, 1.0), workers(4), 10_000, num_cpus=8)
    assert one is not None and four is not None
    assert four.rows_per_s == pytest.approx(4 * one.rows_per_s)
    assert one.low_s < one.total_s < one.high_s
    assert four.total_s - 5 == pytest.approx((one.total_s - 5) / 4)


def test_parts_that_differ_widen_the_range() -> None:
    even = foretell(trial_of(1.0, 1.0, 1.0), workers(1), 10_000, num_cpus=8)
    uneven = foretell(trial_of(0.2, 1.0, 1.8), workers(1), 10_000, num_cpus=8)
    assert even is not None and uneven is not None
    assert uneven.rows_per_s == pytest.approx(even.rows_per_s)
    assert uneven.high_s > even.high_s and uneven.low_s < even.low_s


def test_split_stages_are_as_fast_as_the_slower_side() -> None:
    fed = foretell(trial_of(4.0, forward_s=1.0, decode_s=3.0), workers(1, "split", 1), 1000, num_cpus=9)
    starved = foretell(trial_of(4.0, forward_s=1.0, decode_s=3.0), workers(1, "split", 1), 1000, num_cpus=2)
    assert fed is not None and starved is not None
    assert (fed.rows_per_s, starved.rows_per_s) == (pytest.approx(10.0), pytest.approx(10 / 3))


def test_nothing_is_foretold_without_rows() -> None:
    assert foretell(trial_of(1.0), workers(1), None, num_cpus=2) is None
    assert foretell(trial_of(), workers(1), 100, num_cpus=2) is None


def test_first_rows_foretell_once_there_are_enough() -> None:
    assert Forecast.of_first_rows(1000, 50, 10.0, 8.0) is None
    found = Forecast.of_first_rows(1000, 200, 10.0, 8.0)
    assert found is not None and found.total_s == pytest.approx(88.0)
    assert found.off_by(88.0) == pytest.approx(0.0)
