"""Replicas that come and go with online load."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ray_pipelines as rp
from tests.integration.serve.applications import UNTIL, WAITS, deploy, remove
from tests.integration.serve.load import Load
from tests.integration.serve.test_sharing import job_of
from tests.ray_nodes import wait_until

Model = Callable[[str], str]
NUM_ROWS = 300
UPSCALE_DELAY_S = 1
WITHIN_S = 120.0
PATIENCE_S = 5.0
"""After which a replica that is to come would have been asked for."""


def num_replicas(name: str) -> int:
    """How many replicas of an application answer."""
    from ray import serve

    (deployment,) = serve.status().applications[name].deployments.values()
    return int(deployment.replica_states.get("RUNNING", 0))


@pytest.fixture
def scaled(serve_url: str, model: Model, request: pytest.FixtureRequest) -> Iterator[str]:
    """An application of one replica, or two while there is work: requests, and rows if the parameter says so."""
    settings = {"upscale_delay_s": UPSCALE_DELAY_S, "downscale_delay_s": 2, "scale_on_batch": request.param}
    deploy("scaled", model("bert-classifier"), replicas=[1, 2], requests_per_replica=0.01, **settings)
    yield f"{serve_url}/scaled"
    remove("scaled")


@pytest.fixture
def go() -> Iterator[Path]:
    """A file that rows wait for; the path is short, as it is their text."""
    with tempfile.TemporaryDirectory(prefix="go-", dir="/tmp") as folder:
        yield Path(folder) / "go"


@contextlib.contextmanager
def job_that_waits(folder: Path, model_folder: str, go: Path) -> Iterator[None]:
    """A job whose rows wait in replicas of the application, and go on afterwards."""
    rows = [{"n": n, "text": f"{UNTIL}{go}"} for n in range(NUM_ROWS)]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = job_of(folder, model_folder, workers="serve://scaled", read={"path": str(folder / "in.jsonl")})
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(rp.run_job, job)
        try:
            yield
        finally:
            go.touch()
        assert running.result().report.counts() == {"num_rows": NUM_ROWS, "num_results": NUM_ROWS, "num_errors": 0}


@pytest.mark.parametrize("scaled", [False], indirect=True)
def test_replicas_follow_requests_and_not_a_job(scaled: str, model: Model, tmp_path: Path, go: Path) -> None:
    with job_that_waits(tmp_path, model("bert-classifier"), go):
        wait_until(lambda: go.with_name(WAITS).exists(), timeout_s=WITHIN_S)
        until_s = time.monotonic() + UPSCALE_DELAY_S + PATIENCE_S
        while time.monotonic() < until_s:
            assert num_replicas("scaled") == 1
            time.sleep(0.2)
    with Load(scaled) as load:
        wait_until(lambda: num_replicas("scaled") == 2, timeout_s=WITHIN_S)
        load.wait_for(100)
    assert set(load.statuses) == {"200"}
    wait_until(lambda: num_replicas("scaled") == 1, timeout_s=WITHIN_S)


@pytest.mark.parametrize("scaled", [True], indirect=True)
def test_replicas_follow_the_rows_of_a_job_where_they_are_to(
    scaled: str, model: Model, tmp_path: Path, go: Path
) -> None:
    with job_that_waits(tmp_path, model("bert-classifier"), go):
        wait_until(lambda: num_replicas("scaled") == 2, timeout_s=WITHIN_S)
