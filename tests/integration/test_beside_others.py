"""Jobs on a cluster that others use too: Serve's replicas, which never end, and other jobs, which do."""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ray_pipelines as rp
from ray_pipelines.job_file import validate_job

pytestmark = pytest.mark.usefixtures("ray_cluster")
Model = Callable[[str], str]

HOLDER = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
class Holder:
    def ready(self): pass
holder = ray.remote(Holder).options(num_cpus=3).remote()
ray.get(holder.ready.remote())
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def job(model: Model, tmp_path: Path) -> rp.Job:
    pq.write_table(pa.table({"text": [f"row {n}" for n in range(50)]}), tmp_path / "in.parquet")
    return validate_job(
        {
            "task": "text-classification",
            "model": model("bert-classifier"),
            "read": {"path": str(tmp_path / "in.parquet")},
            "write": {"path": str(tmp_path / "out")},
        }
    )


def test_a_job_makes_do_with_what_services_leave(job: rp.Job) -> None:
    import ray

    class Service:
        def ready(self) -> None:
            pass

    service = ray.remote(Service).options(num_cpus=3, lifetime="detached", name="service").remote()
    ray.get(service.ready.remote())
    try:
        result = rp.run_job(job)
    finally:
        ray.kill(service)
    assert result.report.counts()["num_results"] == 50
    assert result.report.plan == "1 x (0 CPU, 1 thread), fused stages"


def test_a_job_waits_for_what_other_jobs_hold_and_says_so(job: rp.Job, caplog: pytest.LogCaptureFixture) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDER, address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )
    assert other.stdin is not None and other.stdout is not None
    assert other.stdout.readline() == "held\n"

    class EndsTheOther(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            other.stdin.close()

    logger, ends_the_other = logging.getLogger("ray_pipelines.data.room"), EndsTheOther(logging.WARNING)
    logger.addHandler(ends_the_other)
    try:
        result = rp.run_job(job.model_copy(update={"workers": job.workers.model_copy(update={"num_cpus": 1})}))
    finally:
        logger.removeHandler(ends_the_other)
        other.kill()
        other.wait(60)
    assert result.report.counts()["num_results"] == 50
    [said] = [record.getMessage() for record in caplog.records if record.name == logger.name]
    assert said.startswith("waiting for other jobs to end: workers: expected 1 x 1 CPUs")
    assert "beside 3 CPUs that others hold" in said


STARTER = """
import sys, time, ray
from ray_pipelines.config import WorkersConfig
from ray_pipelines.data.resources import WorkerPlan
from ray_pipelines.data.room import room_for
ray.init(address=sys.argv[1], log_to_driver=False)
class Worker:
    def ready(self): pass
print("connected", flush=True)
sys.stdin.readline()
with room_for(WorkerPlan("fused", 1, 1, num_cpus=2, num_gpus=0, num_threads=1), WorkersConfig()):
    print("found room", flush=True)
    sys.stdin.readline()
    worker = ray.remote(Worker).options(num_cpus=2).remote()
    ray.get(worker.ready.remote())
    print("started", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def starters() -> Iterator[list[subprocess.Popen[str]]]:
    """Two drivers, connected, which look for room for a worker of two of four CPUs and a task once they read a line."""
    import ray

    address = ray.get_runtime_context().gcs_address
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", STARTER, address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        )
        for _ in range(2)
    ]
    try:
        assert [said(process) for process in processes] == ["connected", "connected"]
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait(60)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")


def first_of(processes: list[subprocess.Popen[str]]) -> list[subprocess.Popen[str]]:
    """The one that says something first, and the other, which says nothing for a while longer."""
    [first] = select.select([process.stdout for process in processes], [], [], 60)[0]
    [other] = [process for process in processes if process.stdout is not first]
    assert not select.select([other.stdout], [], [], 3)[0]
    return sorted(processes, key=lambda process: process is other)


def test_of_two_jobs_that_start_at_once_one_finds_room_and_the_other_waits(
    starters: list[subprocess.Popen[str]],
) -> None:
    for process in starters:
        go_on(process)
    first, other = first_of(starters)
    assert said(first) == "found room"
    go_on(first)
    assert said(first) == "started"
    assert not select.select([other.stdout], [], [], 3)[0], said(other)
    go_on(first)
    assert said(other) == "found room"


def test_the_turn_of_a_job_that_is_killed_goes_to_the_next(starters: list[subprocess.Popen[str]]) -> None:
    for process in starters:
        go_on(process)
    first, other = first_of(starters)
    first.kill()
    assert said(other) == "found room"
