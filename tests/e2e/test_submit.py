"""Jobs on a Ray cluster of two nodes that runs elsewhere: `ray-pipelines submit`, `ray job submit`, exit status."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_pipelines.data.prometheus import METRICS
from tests.machine import inherited
from tests.ray_nodes import RayNode

Model = Callable[[str], str]
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PORT, DASHBOARD_PORT = 26379, 28265
ADDRESS = f"http://127.0.0.1:{DASHBOARD_PORT}"


def environment(home: Path, **changes: str) -> dict[str, str]:
    kept = inherited("RAY_")
    path = f"{BIN}{os.pathsep}{kept['PATH']}"
    return {**kept, "HOME": str(home), "PATH": path, "COLUMNS": "200", "NO_COLOR": "1", **changes}


def command(home: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env=environment(home, **changes),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=200,
    )


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home directory with the token of a cluster that demands it."""
    with tempfile.TemporaryDirectory(prefix="home-", dir="/tmp") as folder:
        (Path(folder) / ".ray").mkdir()
        (Path(folder) / ".ray/auth_token").write_text("0123456789abcdef0123456789abcdef")
        yield Path(folder)


@pytest.fixture(scope="module")
def cluster(home: Path) -> Iterator[list[RayNode]]:
    """Two nodes of one CPU and of two, each a `ray start` of its own, with token authentication."""
    with tempfile.TemporaryDirectory(prefix="rc-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        head = ["--head", "--num-cpus=2", f"--port={PORT}", f"--dashboard-port={DASHBOARD_PORT}"]
        head += ["--include-dashboard=true"]
        second = [f"--address=127.0.0.1:{PORT}", "--num-cpus=1"]
        env = environment(home, RAY_AUTH_MODE="token", RAY_BACKEND_LOG_LEVEL="fatal")
        nodes: list[RayNode] = []
        try:
            for name, arguments in (("head", head), ("second", second)):
                nodes.append(RayNode(f"{folder}/{name}", arguments, env))
                nodes[-1].wait()
            yield nodes
        finally:
            for node in nodes:
                node.stop()
            for node in nodes:
                node.join()


def exported_names(nodes: list[RayNode]) -> set[str]:
    """Names of our metrics at the endpoints of all nodes, once Ray has brought the last of them there."""
    wanted = METRICS["batch_size"].exported_name
    for _ in range(60):
        names: set[str] = set()
        for node in nodes:
            with urllib.request.urlopen(f"http://127.0.0.1:{node.metrics_port}/metrics", timeout=10) as reply:
                names |= set(re.findall(r"^(ray_pipelines_\w+)\{", reply.read().decode(), re.MULTILINE))
        if wanted in names:
            return names
        time.sleep(0.5)
    return names


@pytest.fixture
def job_file(model: Model, tmp_path: Path) -> Path:
    rows = [{"review": f"row {n}"} for n in range(20)] + [{"review": None}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values: dict[str, Any] = {
        "task": "sentiment-analysis",
        "model": model("bert-classifier"),
        "inputs": {"text": "review"},
        "read": {"path": str(tmp_path / "in.jsonl")},
        "write": {"path": str(tmp_path / "out")},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "job.yaml"


def test_submitted_jobs_end_as_the_jobs_did(cluster: list[RayNode], job_file: Path, home: Path, tmp_path: Path) -> None:
    submit = ("ray_pipelines", "submit", str(job_file), "--address", ADDRESS)
    done = command(home, *submit, "--name", "with-dead-letters")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "with-dead-letters: SUCCEEDED" in done.stderr and "dead letters" in done.stdout
    assert json.loads((tmp_path / "out/manifest.json").read_text())["num_results"] == 20
    again = command(home, *submit)
    assert again.returncode == 2, again.stdout + again.stderr
    assert "FAILED" in again.stderr and "holds the output of a finished run" in again.stdout

    exported = exported_names(cluster)
    missing = {metric.exported_name for metric in METRICS.values()} - exported
    # What did not happen is not exported: nothing ran out of memory, no batch failed, rows may be of one length.
    assert missing <= {METRICS[name].exported_name for name in ("out_of_memory", "failed_batches", "padding")}, exported

    arguments = ["--set", f"write.path={tmp_path}/out2", "--set", "workers.num_cpus=1000"]
    job = ("ray.scripts.scripts", "job", "submit", "--address", ADDRESS, "--working-dir", str(ROOT), "--")
    batch = command(home, *job, "python", "-m", "jobs.batch", str(job_file), *arguments, RAY_AUTH_MODE="token")
    assert batch.returncode == 1 and "1000 CPUs" in batch.stdout, batch.stdout + batch.stderr

    stranger = tmp_path / "home"
    stranger.mkdir()
    refused = command(stranger, *submit)
    assert refused.returncode == 1
    assert "no token was sent" in refused.stderr and "Traceback" not in refused.stderr
