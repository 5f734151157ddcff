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
NUM_ROWS = 300


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
def scaled(serve_url: str, model: Model, request: pytest.FixtureRequest) -> Iterator[str]:
    """An application of one replica, or two while there is work: requests, and rows if the parameter says so."""
    settings = {"upscale_delay_s": 1, "downscale_delay_s": 2, "scale_on_batch": request.param}
    deploy("scaled", model("bert-classifier"), replicas=[1, 2], requests_per_replica=0.01, **settings)
    yield f"{serve_url}/scaled"
    remove("scaled")


def seen_beside_a_job(folder: Path, model_folder: str) -> set[int]:
    """How many replicas there were while a job's rows waited, for many times as long as it takes to add one."""
    write_rows(folder, NUM_ROWS, text="slower ")
    read = {"path": str(folder / "in.jsonl"), "rows_per_block": 10}
    seen: set[int] = set()
    job = job_of(folder, model_folder, workers="serve://scaled", read=read)
    report = rp.run_job(job, lambda _: seen.add(num_replicas("scaled"))).report
    assert report.counts() == {"num_rows": NUM_ROWS, "num_results": NUM_ROWS, "num_errors": 0}
    return seen


@pytest.mark.parametrize("scaled", [False], indirect=True)
def test_replicas_follow_requests_and_not_a_job(scaled: str, model: Model, tmp_path: Path) -> None:
    assert seen_beside_a_job(tmp_path, model("bert-classifier")) == {1}
    with Load(scaled) as load:
        wait_for("scaled", 2)
        load.wait_for(100)
    assert set(load.statuses) == {"200"}
    wait_for("scaled", 1)


@pytest.mark.parametrize("scaled", [True], indirect=True)
def test_replicas_follow_the_rows_of_a_job_where_they_are_to(scaled: str, model: Model, tmp_path: Path) -> None:
    assert 2 in seen_beside_a_job(tmp_path, model("bert-classifier"))
