"""The README says what is so: its blocks run in their order, as printed, in a copy of the project.

Hub and S3 are servers of this machine, which have the models and buckets that the README names; `STAND_INS` is what is
changed in a block before it runs, `NOT_RUN` what is not run, and why. A new block is run as all are. See
tests/unit/test_reference.py for links, options, job files and tables.
"""

from __future__ import annotations

import ast
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pytest

import ray_pipelines as rp
from tests.hub_server import hub_server
from tests.integration.s3_server import KEY, SECRET, S3Server, run_s3_server
from tests.machine import command_line, free_ports, inherited, processes

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
NUM_REVIEWS = 1200

REPOS = {
    "distilbert/distilbert-base-uncased-finetuned-sst-2-english": "bert-classifier",
    "sentence-transformers/all-MiniLM-L6-v2": "bert-features",
}
"""Models of the Hub that the README names: tiny ones in their place."""

STAND_INS = {
    "AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…": f"AWS_ACCESS_KEY_ID={KEY} AWS_SECRET_ACCESS_KEY={SECRET}",
    "ray start --head": "ray start --head --num-cpus=4 --port=$RAY_PORT --dashboard-port=$DASHBOARD_PORT "
    "--dashboard-agent-listen-port=$AGENT_PORT --ray-client-server-port=$CLIENT_PORT --object-store-memory=300000000 "
    "--disable-usage-stats",
    "http://head:8265": "http://127.0.0.1:$DASHBOARD_PORT",
    "--port 8000": "--port $SERVE_PORT",
    "serve.name=sentiment ": "serve.name=sentiment --port $SERVE_PORT ",
    "http://127.0.0.1:8000": "http://127.0.0.1:$SERVE_PORT",
}
"""Text of a block: what is there instead, so that several tests run on one machine."""

NOT_RUN = {
    "make demo": "installs all dependencies; test_cli.py runs what it runs then",
    ". .venv/bin/activate": "the environment of the tests is on the PATH",
    "pip install '.[all]'": "needs a package index",
}
"""Command: why it is not run."""

PORTS = ("RAY_PORT", "DASHBOARD_PORT", "AGENT_PORT", "CLIENT_PORT", "SERVE_PORT")
NOT_CODE = ("text", "mermaid")
WITH_DEAD_LETTERS = ("ray-pipelines run job.yaml", "ray-pipelines retry", "ray-pipelines submit")
"""How commands begin that end with 3, as one review of the bucket is null."""


@dataclass
class Reader:
    """Who types what the README says, into one shell after the other in one folder.

    Attributes:
        folder: The copy of the project.
        environment: Variables, those that were exported among them.
        servers: Commands that serve until they are interrupted.
    """

    folder: Path
    environment: dict[str, str]
    servers: list[subprocess.Popen[str]] = field(default_factory=list)

    def stand_ins(self, text: str) -> str:
        for printed, instead in STAND_INS.items():
            text = text.replace(printed, instead)
        return re.sub(r"\$([A-Z_]+)", lambda found: self.environment[found[1]], text)

    def type_command(self, printed: str) -> None:
        """Runs one line of a console, and checks how it ends."""
        line = self.stand_ins(printed)
        if line.startswith("export "):
            assignments = re.sub(r"\s+#.*", "", line).split()[1:]
            self.environment.update(assignment.split("=", 1) for assignment in assignments)
            return
        if line.startswith(("ray start", "ray-pipelines serve")):
            self.stop_servers()
        if line.startswith("ray-pipelines serve"):
            self._serve(line)
        else:
            has_null = line.startswith(WITH_DEAD_LETTERS) and "read.limit" not in line
            self._run(["bash", "-c", line], printed, 3 if has_null else 0)

    def run_python(self, text: str) -> None:
        """Runs a block of Python in a process of its own."""
        self._run([sys.executable, "-c", self.stand_ins(text)], text, 0)

    def _run(self, command: list[str], printed: str, status: int) -> None:
        start_s = time.monotonic()
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=400,
        )
        print(f"--- {time.monotonic() - start_s:.1f} s: {printed}\n{done.stdout}")
        assert done.returncode == status, f"{printed}\nended with {done.returncode}, not {status}:\n{done.stdout}"
        assert "Traceback" not in done.stdout, f"{printed}\n{done.stdout}"

    def _serve(self, line: str) -> None:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {line}"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.servers.append(process)
        assert process.stdout is not None
        seen = ""
        for output in process.stdout:
            seen += output
            if "http://127.0.0.1:" in output:
                return
        raise AssertionError(f"{line}\n{seen}")

    def stop_servers(self) -> None:
        """Ctrl-C for what serves."""
        while self.servers:
            process = self.servers.pop()
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=100)


def fill_bucket(server: S3Server) -> None:
    """The bucket with reviews, the last of which is null."""
    s3 = server.client()
    s3.mkdir("my-bucket")
    reviews = [f"Review {n}: " + ("great", "boring", "The best film I have seen.")[n % 3] for n in range(NUM_REVIEWS)]
    file = io.BytesIO()
    pd.DataFrame({"review": [*reviews, None]}).to_parquet(file)
    s3.pipe("my-bucket/reviews/part-0.parquet", file.getvalue())


@pytest.fixture
def reader(model: Callable[[str], str]) -> Iterator[Reader]:
    with ExitStack() as stack:
        scratch = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="rd-", dir="/tmp", ignore_cleanup_errors=True))
        )
        clone = scratch / "ray_pipelines"
        for name in ("ray_pipelines", "jobs", "cluster_configs"):
            shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
        hub = stack.enter_context(hub_server({repo: Path(model(name)) for repo, name in REPOS.items()}))
        s3 = stack.enter_context(run_s3_server())
        fill_bucket(s3)
        kept = inherited("RAY_", "AWS_", "HF_")
        (scratch / "home").mkdir()
        reader = Reader(
            clone,
            {
                **kept,
                "HOME": str(scratch / "home"),
                "PATH": f"{BIN}{os.pathsep}{kept['PATH']}",
                "PYTHONPATH": str(clone),
                "HF_ENDPOINT": hub.url,
                "AWS_ENDPOINT_URL": s3.url,
                "RAY_AUTH_MODE": "disabled",
                "RAY_TMPDIR": str(scratch),
                "COLUMNS": "120",
                **dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True)),
            },
        )
        try:
            yield reader
        finally:
            reader.stop_servers()
            stop_cluster(scratch / "ray")


def stop_cluster(folder: Path) -> None:
    """Ends what `ray start` has left to run below a folder; Ray's workers end with it."""

    def left() -> list[int]:
        return [pid for pid, _ in processes() if str(folder).encode() in command_line(pid) and pid != os.getpid()]

    for kind in (signal.SIGTERM, signal.SIGKILL):
        for pid in left():
            with suppress(ProcessLookupError):
                os.kill(pid, kind)
        until_s = time.monotonic() + 15
        while left() and time.monotonic() < until_s:
            time.sleep(0.5)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_blocks_run_in_their_order(reader: Reader) -> None:
    commands = set()
    for language, text in FENCED.findall(README):
        if language == "console":
            lines = text.splitlines()
            assert all(line.startswith("$ ") for line in lines), text
            for line in (line[2:] for line in lines):
                command = re.sub(r"\s+#.*", "", line)
                commands.add(command)
                if command not in NOT_RUN:
                    reader.type_command(line)
        elif language == "python":
            reader.run_python(text)
        elif language == "yaml":
            name = re.match(r"# ([\w.-]+\.yaml)\n", text)
            assert name, f"expected the name of the file in the first line of\n{text}"
            (reader.folder / name[1]).write_text(text, encoding="utf-8")
        else:
            assert language in NOT_CODE, f"expected console, python, yaml or {NOT_CODE}; got {language!r}:\n{text}"
    assert NOT_RUN.keys() <= commands, "NOT_RUN names what the README has no more"


@pytest.mark.parametrize("printed", STAND_INS)
def test_what_is_replaced_is_in_the_readme(printed: str) -> None:
    assert printed in README


@pytest.mark.parametrize("text", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_calls_what_exists(text: str) -> None:
    tree = ast.parse(text)
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "rp"}
    assert used <= set(rp.__all__)


def test_demo_output_shows_the_held_out_accuracy() -> None:
    demo = README.split("<!-- demo -->")[1].split("<!-- /demo -->")[0]
    (share,) = re.findall(r"Accuracy on 797 images that the model has not been trained on: (\d+\.\d)%", demo)
    assert float(share) >= 95
