"""Jobs on a cluster that others use too: Serve's replicas, which never end, and other jobs, which do."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
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

    logger, ends_the_other = logging.getLogger("ray_pipelines.data.resources"), EndsTheOther(logging.WARNING)
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
