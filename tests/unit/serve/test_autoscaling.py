from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ray_pipelines.serve.autoscaling import OnlineLoad


def context(online: list[float], batch: list[float], least: int = 1, most: int = 4) -> Any:
    """What Ray Serve tells a policy."""
    reported = {"online": dict(enumerate(online)), "batch": dict(enumerate(batch))}
    return SimpleNamespace(
        aggregated_metrics=reported, capacity_adjusted_min_replicas=least, capacity_adjusted_max_replicas=most
    )


@pytest.mark.parametrize(
    ("online", "batch", "scale_on_batch", "wanted"),
    [
        ([], [], False, 1),
        ([8.0], [0.0], False, 1),
        ([9.0], [0.0], False, 2),
        ([8.0, 8.0], [512.0, 512.0], False, 2),
        ([0.0], [512.0], False, 1),
        ([0.0], [512.0], True, 2),
        ([100.0], [0.0], False, 4),
    ],
)
def test_replicas_follow_requests_and_rows_of_jobs_only_if_asked_to(
    online: list[float], batch: list[float], scale_on_batch: bool, wanted: int
) -> None:
    policy = OnlineLoad(requests_per_replica=8, scale_on_batch=scale_on_batch)
    assert policy(context(online, batch)) == (wanted, {})


def test_a_replica_that_has_not_reported_yet_changes_nothing() -> None:
    empty = SimpleNamespace(aggregated_metrics=None, capacity_adjusted_min_replicas=2, capacity_adjusted_max_replicas=4)
    assert OnlineLoad(8, scale_on_batch=True)(empty) == (2, {})
