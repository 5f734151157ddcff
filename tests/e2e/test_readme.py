"""What the README prints works, in its order: job files are written, commands and Python run, as a reader would.

What a reader has and this machine has not is put in its place:

- the Hub: a server on this machine, which has a tiny model under the name that the README uses;
- S3: moto's server, with the bucket of the README and some reviews in it; the exported keys are its keys;
- a Ray cluster that is running (`RAY_ADDRESS`), so that not every command starts one of its own;
- port 8000, which is another free one here.

`pip`, `make`, `git` and what needs a cluster elsewhere (`submit`, `ray job`) are run by other tests; their arguments
are checked in tests/unit/test_reference.py.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ray_pipelines as rp
from tests.hub_server import hub_server
from tests.integration.s3_server import KEY, SECRET, run_s3_server

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HUB_MODEL = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
ELSEWHERE = ({"pip", "make", "git", "ray"}, {"submit"})
FENCED = re.compile(r"^```(yaml|console|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)
CLUSTER = """
import ray, sys
ray.init(num_cpus=4, object_store_memory=300 << 20, include_dashboard=False, _temp_dir=sys.argv[1], log_to_driver=False)
print(ray.get_runtime_context().gcs_address, flush=True)
input()
"""


@pytest.fixture(scope="module")
def surroundings(model: Callable[[str], str]) -> Iterator[dict[str, str]]:
    """The environment of a reader with a Hub, a bucket and a cluster."""
    with (
        hub_server({HUB_MODEL: Path(model("bert-classifier"))}) as hub,
        run_s3_server() as s3,
        tempfile.TemporaryDirectory(prefix="rr-", dir="/tmp") as folder,
    ):
        bucket = s3.client()
        bucket.mkdir("my-bucket")
        reviews = [f"review {n}" for n in range(299)]
        with bucket.open("my-bucket/reviews/part-0.parquet", "wb") as file:
            pq.write_table(pa.table({"id": range(300), "review": [*reviews, None]}), file)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_", "HF_"))}
        environment = {
            **kept,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), kept.get("PYTHONPATH", "")]),
            "HF_ENDPOINT": hub.url,
            "HF_HOME": f"{folder}/hub",
            "AWS_ENDPOINT_URL": s3.url,
            "AWS_ENDPOINT_URL_S3": s3.url,
            "RAY_PIPELINES_CACHE": f"{folder}/cache",
            "RAY_AUTH_MODE": "disabled",
            "RAY_BACKEND_LOG_LEVEL": "fatal",
            "COLUMNS": "160",
            "NO_COLOR": "1",
        }
        on_nodes = {**environment, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}
        command = [sys.executable, "-c", CLUSTER, folder]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, env=on_nodes, text=True, **pipes) as cluster:  # type: ignore[call-overload]
            try:
                address = next(line for line in cluster.stdout if re.match(r"[\d.]+:\d+$", line))
                yield {**environment, "RAY_ADDRESS": address.strip()}
            finally:
                cluster.communicate("\n", timeout=60)


def test_blocks_work_as_printed(surroundings: dict[str, str], tmp_path: Path) -> None:
    reader = Reader(surroundings, tmp_path)
    try:
        for language, text in FENCED.findall(README):
            getattr(reader, language)(text)
    finally:
        reader.leave()
    assert reader.ran >= {"check", "plan", "run", "retry", "serve"}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
            patch.setenv(name, reader.environment[name])
        output = rp.read_output("s3://my-bucket/sentiment/")
        assert output.results.count_rows() == 299 and output.dead_letters.count_rows() == 1


class Reader:
    """Somebody who types what stands there, in a folder of their own."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.environment = dict(environment)
        self.folder = folder
        self.ran: set[str] = set()
        self.endpoint: subprocess.Popen[str] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = str(probe.getsockname()[1])

    def yaml(self, text: str) -> None:
        (self.folder / text.splitlines()[0].removeprefix("# ")).write_text(text)

    def python(self, text: str) -> None:
        self._finish([sys.executable, "-W", "ignore", "-c", text.replace("8000", self.port)], {0})

    def console(self, text: str) -> None:
        for line in text.splitlines():
            words = shlex.split(line.removeprefix("$ ").replace("8000", self.port), comments=True)
            if line.startswith("$ export "):
                self._export(words[1:])
            elif line.startswith("$ ") and words[0] not in ELSEWHERE[0] and words[1] not in ELSEWHERE[1]:
                self._type(words)

    def leave(self) -> None:
        if self.endpoint is not None:
            self.endpoint.send_signal(signal.SIGINT)
            self.endpoint.communicate(timeout=60)

    def _export(self, assignments: list[str]) -> None:
        own = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
        for name, _, value in (assignment.partition("=") for assignment in assignments):
            self.environment[name] = own.get(name, value)

    def _type(self, words: list[str]) -> None:
        self.ran.add(words[1])
        if words[1] != "serve":
            self._finish(words, {0, 3} if words[1] in ("run", "retry") else {0})
            return
        self.endpoint = subprocess.Popen(
            words, env=self.environment, cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self.endpoint.stdout is not None
        assert any("Answers at" in line for line in self.endpoint.stdout), "the endpoint ended"

    def _finish(self, words: list[str], statuses: set[int]) -> None:
        done = subprocess.run(words, env=self.environment, cwd=self.folder, text=True, capture_output=True, timeout=200)
        assert done.returncode in statuses, f"{words}\n{done.stdout}\n{done.stderr}"


def test_demo_output_shows_the_held_out_accuracy() -> None:
    demo = README.split("<!-- demo -->")[1].split("<!-- /demo -->")[0]
    (share,) = re.findall(r"Accuracy on 797 images that the model has not been trained on: (\d+\.\d)%", demo)
    assert float(share) >= 95
