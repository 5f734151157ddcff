"""`ray-pipelines serve` on a cluster that already runs, as several people share it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx2
import pytest
import yaml

from tests.machine import free_port, free_ports, heed_ctrl_c
from tests.ray_nodes import RayNode

Model = Callable[[str], str]
ROOT = Path(__file__).parents[2]
KEY = "my-secret-key"


class Cluster:
    """A cluster of two CPUs that knows no keys, and the commands that are run on it.

    Attributes:
        address: Where it answers.
        port: Where its Serve is to listen.
        folder: Ray's files.
    """

    def __init__(self, folder: str, job_file: Path) -> None:
        ports = free_ports(2)
        self.address, self.port = f"127.0.0.1:{ports[0]}", ports[1]
        self.folder = Path(folder)
        self._job_file = job_file
        options = ["--head", f"--port={ports[0]}", "--num-cpus=2", "--include-dashboard=false"]
        self.node = RayNode(folder, options, os.environ | {"RAY_AUTH_MODE": "disabled"})
        self.node.wait()

    def command(self, *settings: str, options: Sequence[str] = (), **environment: str) -> subprocess.Popen[str]:
        """A `ray-pipelines serve` that has begun."""
        arguments = [part for setting in settings for part in ("--set", setting)]
        return subprocess.Popen(
            [sys.executable, "-m", "ray_pipelines", "serve", str(self._job_file), *arguments, *options],
            env={
                **{name: value for name, value in os.environ.items() if name != "RAY_BACKEND_LOG_LEVEL"},
                "COLUMNS": "200",
                "NO_COLOR": "1",
                "RAY_AUTH_MODE": "disabled",
                "RAY_ADDRESS": self.address,
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            preexec_fn=heed_ctrl_c,
        )

    @contextlib.contextmanager
    def serving(self, *settings: str, options: Sequence[str] = (), **environment: str) -> Iterator[str]:
        """The line that says where an endpoint answers, while it does."""
        with self.command(*settings, options=options, **environment) as process:
            try:
                assert process.stdout is not None and process.stderr is not None
                process.stdout.readline()
                line = process.stdout.readline()
                assert "Answers at" in line, process.stderr.read()
                yield line
            finally:
                process.terminate()
                rest, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "graceful_shutdown" not in rest, "Ray's own lines"

    def refusal(self, *settings: str, options: Sequence[str] = ()) -> tuple[int, str]:
        """The exit status and the one line, beside any about room, of an endpoint that does not start."""
        with self.command(*settings, options=options) as process:
            _, stderr = process.communicate(timeout=120)
        # What ended just before may still hold its CPUs.
        lines = [line for line in stderr.splitlines() if not line.startswith("waiting for room")]
        assert len(lines) == 1, stderr
        (line,) = lines
        return process.returncode, line


@pytest.fixture(scope="module")
def cluster(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    file = tmp_path_factory.mktemp("serve") / "job.yaml"
    values = {"task": "text-classification", "model": model("bert-classifier"), "workers": {"num_cpus": 0.5}}
    file.write_text(yaml.safe_dump(values))
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        cluster = Cluster(folder, file)
        try:
            yield cluster
        finally:
            cluster.node.stop()
            cluster.node.join()


@pytest.fixture
def corrupt_model(model: Model, tmp_path: Path) -> str:
    """A model whose weights do not begin as they must."""
    shutil.copytree(model("bert-classifier"), tmp_path / "corrupt")
    (tmp_path / "corrupt/model.safetensors").write_bytes(b"\xff" * 2000)
    return str(tmp_path / "corrupt")


@pytest.fixture(scope="module")
def url(cluster: Cluster) -> Iterator[str]:
    """An endpoint called `first` whose key is in the environment of its command only."""
    settings = ("serve.name=first", "serve.route_prefix=/first")
    with cluster.serving(*settings, options=["--port", str(cluster.port)], RAY_PIPELINES_API_KEYS=KEY):
        yield f"http://127.0.0.1:{cluster.port}/first"


def test_serve_that_cannot_listen_does_not_stay(cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, line = cluster.refusal(options=["--port", str(taken.getsockname()[1])])
    assert status == 1 and "Serve cannot start" in line
    with cluster.serving(options=["--port", str(free_port())]) as line:
        assert "Answers at" in line


def test_keys_of_the_command_hold_on_a_cluster_that_does_not_know_them(url: str, cluster: Cluster) -> None:
    for headers, status in (({}, 401), ({"authorization": "Bearer x"}, 401), ({"authorization": f"Bearer {KEY}"}, 200)):
        assert httpx2.post(url, json={"inputs": "Hello"}, headers=headers, timeout=60).status_code == status
    logs = [file.read_bytes() for file in cluster.folder.rglob("*") if file.suffix in (".log", ".out", ".err")]
    assert logs and not any(KEY.encode() in log for log in logs)


def test_an_endpoint_answers_where_serve_listens(url: str, cluster: Cluster) -> None:
    with cluster.serving("serve.name=second", "serve.route_prefix=/second") as line:
        answers_at = f"http://127.0.0.1:{cluster.port}/second"
        assert f"Answers at {answers_at};" in line
        assert httpx2.get(f"{answers_at}/health", timeout=60).status_code == 200


@pytest.mark.parametrize(("option", "value"), [("--port", "1234"), ("--host", "0.0.0.0")])
def test_an_address_where_serve_does_not_listen_is_refused(url: str, cluster: Cluster, option: str, value: str) -> None:
    status, line = cluster.refusal("serve.name=second", "serve.route_prefix=/second", options=[option, value])
    assert status == 2
    assert f"expected 127.0.0.1:{cluster.port}, where Serve listens" in line and value in line


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            ("serve.name=first", "serve.route_prefix=/second"),
            'serve.name: expected one that no application has; got "first"',
        ),
        (["serve.route_prefix=/first"], 'got "/first", which "first" has'),
    ],
)
def test_what_another_endpoint_has_is_not_taken_from_it(
    url: str, cluster: Cluster, settings: Sequence[str], expected: str
) -> None:
    status, line = cluster.refusal(*settings)
    assert status == 2 and expected in line
    assert httpx2.get(f"{url}/health").status_code == 200


def test_replicas_that_can_never_fit_are_refused(cluster: Cluster) -> None:
    status, line = cluster.refusal("workers.num_cpus=16")
    assert status == 1
    assert "1 replica(s) of 16 CPUs each; only 0 fit, as the cluster has 2 CPUs" in line


def test_a_start_that_fails_or_is_interrupted_leaves_nothing(url: str, cluster: Cluster, corrupt_model: str) -> None:
    settings = ["serve.name=other", "serve.route_prefix=/other"]
    status, line = cluster.refusal(*settings, f"model={corrupt_model}")
    assert status == 1 and "SafetensorError: Error while deserializing header" in line
    # `first` has half a CPU of the two.
    with cluster.command(*settings, "workers.num_cpus=2") as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == (
            "waiting for room for 1 replica(s) of 2 CPUs each: the cluster has 2 CPUs and 0 GPUs on 1 node(s), of "
            "which 1.5 CPUs and 0 GPUs are free.\n"
        )
        waiting.send_signal(signal.SIGINT)
        waiting.communicate(timeout=60)
    assert waiting.returncode == 130
    with cluster.serving("serve.name=another", "serve.route_prefix=/other") as line:
        assert "/other" in line


def test_an_endpoint_that_wants_keys_says_so(url: str, cluster: Cluster) -> None:
    status, line = cluster.refusal("serve.name=locked", "serve.route_prefix=/locked", "serve.open_to_all=false")
    assert status == 1
    assert "cannot start: serve.open_to_all: is false, so expected keys in RAY_PIPELINES_API_KEYS" in line
