"""Replicas that come and go with online load."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ray_pipelines as rp
from tests.integration.serve.applications import deploy, remove
from tests.integration.serve.load import Load
from tests.integration.serve.test_sharing import job_of, write_rows

Model = Callable[[str], str]
WITHIN_S = 60.0


def num_replicas(name: str) -> int:
    """How many replicas of an application answer."""
    from ray import serve

    (deployment,) = serve.status().applications[name].deployments.values()
    return int(deployment.replica_states.get("RUNNING", 0))


def wait_for(name: str, count: int) -> None:
    """Waits until an application has so many replicas."""
    until_s = time.monotonic() + WITHIN_S
    while num_replicas(name) != count:
        assert time.monotonic() < until_s, f"{num_replicas(name)} replicas"
        time.sleep(0.2)


@pytest.fixture
def scaled(serve_url: str, model: Model) -> Iterator[str]:
    """An application of one replica, or two while there are requests."""
    delays = {"upscale_delay_s": 2, "downscale_delay_s": 3}
    deploy("scaled", model("bert-classifier"), replicas=[1, 2], requests_per_replica=0.01, **delays)
    yield f"{serve_url}/scaled"
    remove("scaled")


def test_replicas_follow_requests_and_not_a_job(scaled: str, model: Model, tmp_path: Path) -> None:
    write_rows(tmp_path, 200, text="slow ")
    read = {"path": str(tmp_path / "in.jsonl"), "rows_per_block": 10}
    job = job_of(tmp_path, model("bert-classifier"), workers="serve://scaled", read=read)
    seen: list[int] = []
    report = rp.run_job(job, lambda _: seen.append(num_replicas("scaled"))).report
    assert report.counts() == {"num_rows": 200, "num_results": 200, "num_errors": 0}
    assert seen and set(seen) == {1}, "rows that wait do not call for replicas"
    with Load(scaled) as load:
        wait_for("scaled", 2)
        load.wait_for(100)
    assert set(load.statuses) == {"200"}
    wait_for("scaled", 1)
