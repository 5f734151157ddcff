"""Kills jobs with SIGKILL at random moments and looks whether every row is there once in the end.

    python -m tests.crash.crashes --rounds 20 --seed 0                    # plain, local files
    python -m tests.crash.crashes --rounds 20 --task groupby              # chunked; or in_worker
    python -m tests.crash.crashes --rounds 5 --output s3://bucket/out     # with AWS_ENDPOINT_URL and credentials

Each round starts one job anew and kills it (the driver, a worker, or the raylet, in turn) a few times, after a random
share of the time that a whole run takes, running the same command again after each kill. Then it ends undisturbed, and
union of results and dead letters must equal the input, each row once; no row that had been committed may have been
computed again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import transformers
import yaml

import ray_pipelines as rp
from ray_pipelines.config import FilesystemConfig
from ray_pipelines.data.folder import Folder
from ray_pipelines.data.inventory import ROW_BITS, source_of
from ray_pipelines.data.resume import COMMITS, Commit
from tests.machine import SESSION, command_line, processes

ROOT = Path(__file__).parents[2]
ROWS_OF_FILE = 250
VICTIMS = ("driver", "worker", "raylet")
UNDONE_AT_MOST = 8


def note(text: str) -> str:
    """Notes that a row is computed and takes its time; gives its name, or raises if the row is a bad one."""
    name, _, notes = text.partition("|")
    with Path(notes, str(os.getpid())).open("a") as file:
        file.write(f"{name}\n")
    time.sleep(0.004)
    if name.endswith("7"):
        raise ValueError("a bad row")
    return name


class SlowPipeline(transformers.TextClassificationPipeline):
    """Notes each row that it is given."""

    def preprocess(self, inputs: str, **arguments: Any) -> Any:
        return super().preprocess(note(inputs), **arguments)


class SlowChunks(transformers.ZeroShotClassificationPipeline):
    """Notes each row that it is given, and makes three chunks of it."""

    def preprocess(self, inputs: str, *arguments: Any, **named: Any) -> Any:
        yield from super().preprocess(note(inputs), *arguments, **named)


JOBS: dict[str, dict[str, Any]] = {
    "plain": {"task": "text-classification", "model": {"pipeline_class": "tests.crash.crashes:SlowPipeline"}},
    "in_worker": {
        "task": "zero-shot-classification",
        "model": {"pipeline_class": "tests.crash.crashes:SlowChunks"},
        "parameters": {"candidate_labels": ["sport", "news", "art"]},
        "workers": {"chunking": "in_worker"},
    },
}
JOBS["groupby"] = {**JOBS["in_worker"], "workers": {"chunking": "groupby"}}
MODELS = {"plain": "bert-classifier", "in_worker": "bert-nli", "groupby": "bert-nli"}


class Round:
    """One job that is killed again and again.

    Args:
        folder: Where it works.
        model: The model's folder.
        output: Where it writes; unset, below `folder`.
        num_rows: Rows of its input.
        kind: Of `JOBS`.
    """

    def __init__(self, folder: Path, model: str, output: str | None, num_rows: int, kind: str = "plain") -> None:
        self.folder, self.num_rows, self.kind = folder, num_rows, kind
        self.output = output or str(folder / "out")
        (folder / "notes").mkdir(parents=True)
        (folder / "in").mkdir()
        for start in range(0, num_rows, ROWS_OF_FILE):
            rows = ({"n": n, "text": f"row {n}|{folder}/notes"} for n in range(start, start + ROWS_OF_FILE))
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"in/{start // ROWS_OF_FILE:04d}.jsonl").write_text(text)
        chosen = JOBS[kind]
        job = {
            **chosen,
            "model": {"name": model, **chosen["model"]},
            "read": {"path": str(folder / "in"), "rows_per_block": 50},
            "write": {"path": self.output, "columns": ["n"]},
            "workers": {"num_cpus": 1, **chosen.get("workers", {})},
            "batch": {"window_rows": 50},
        }
        (folder / "job.yaml").write_text(yaml.safe_dump(job))

    def start(self) -> subprocess.Popen[bytes]:
        """Starts the command, with a cluster of its own."""
        environment = {
            **os.environ,
            "RAY_AUTH_MODE": "disabled",
            "PYTHONPATH": str(ROOT),
            "RAY_TMPDIR": str(self.folder.parent / f"r{time.monotonic_ns() % 10**6}"),
            "HF_HUB_OFFLINE": "1",
        }
        log = (self.folder / "log").open("ab")
        command = [sys.executable, "-m", "tests.crash.crashes", "--job", str(self.folder / "job.yaml")]
        return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)

    def written(self) -> set[int]:
        """The rows that the ledger has."""
        folder = Folder(self.output, FilesystemConfig().resolved())
        lines = [line for name in folder.sizes(COMMITS) for line in (folder.read(name) or b"").splitlines()]
        rows = (row for line in lines for row in Commit.from_json(line).rows)
        return {ROWS_OF_FILE * source_of(row) + row % (1 << ROW_BITS) for row in rows}

    def progress(self) -> int:
        """Rows that are written, or, where none is before all are computed, rows that are computed."""
        return len(self.noted()) if self.kind == "groupby" else len(self.written())

    def noted(self) -> Counter[int]:
        """How often each row was computed."""
        files = (self.folder / "notes").iterdir()
        return Counter(int(line.split()[1]) for file in files for line in file.read_text().splitlines())

    def check(self, committed: dict[int, int]) -> dict[str, int]:
        """Looks at the output; gives some counts.

        Args:
            committed: Row: how often it was computed when it was first seen in the ledger.
        """
        output = rp.read_output(self.output)
        results = output.results.to_table()["n"].to_pylist()
        letters = [row["input"]["n"] for row in output.dead_letters.to_table().to_pylist()]
        assert Counter([*results, *letters]) == Counter(range(self.num_rows)), "rows are missing or doubled"
        assert all(n % 10 == 7 for n in letters) and len(letters) == self.num_rows // 10
        noted = self.noted()
        again = [row for row, times in committed.items() if noted[row] > times]
        assert not again, f"computed again after they were committed: {sorted(again)[:10]}"
        return {"computed": sum(noted.values()), "committed before the last kill": len(committed)}


def run_round(
    index: int,
    random_: random.Random,
    folder: Path,
    model: str,
    output: str | None,
    num_rows: int,
    kind: str = "plain",
) -> None:
    """One round, printed in one line."""
    round_ = Round(folder, model, output, num_rows, kind)
    committed: dict[int, int] = {}
    kills: list[str] = []
    for kill in range(UNDONE_AT_MOST):
        process = round_.start()
        victim = VICTIMS[(index + kill) % len(VICTIMS)]
        wait_s = random_.uniform(1, 9)
        if kill < random_.randint(2, 3):
            _wait_for_progress(round_, process)
            time.sleep(wait_s / 3)
            kills.append(victim if kill_one(process.pid, victim) else f"{victim} (gone)")
        status = _end(process, 150)
        kill_group(process.pid)
        noted = round_.noted()
        for row in round_.written() - committed.keys():
            committed[row] = noted[row]
        if status in (0, 3):
            break
    else:
        raise AssertionError(f"the job never ended: {kills}\n{(folder / 'log').read_text()[-4000:]}")
    counts = round_.check(committed)
    print(f"round {index}: {', '.join(kills)}; {counts}; computed twice {counts['computed'] - num_rows}", flush=True)


def _wait_for_progress(round_: Round, process: subprocess.Popen[bytes]) -> None:
    before, until_s = round_.progress(), time.monotonic() + 90
    while time.monotonic() < until_s and process.poll() is None and round_.progress() <= before:
        time.sleep(0.2)


def _end(process: subprocess.Popen[bytes], timeout_s: float) -> int:
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        print(f"  the job hangs: {process.pid}", flush=True)
        kill_group(process.pid)
        return process.wait()


def kill_one(driver: int, victim: str) -> bool:
    """Kills the driver, one of its workers, or its raylet; gives whether there was one."""
    if victim == "driver":
        os.kill(driver, signal.SIGKILL)
        return True
    name = b"ray::MapWorker" if victim == "worker" else b"raylet/raylet"
    for pid in descendants(driver):
        if name in command_line(pid):
            os.kill(pid, signal.SIGKILL)
            return True
    return False


def descendants(pid: int) -> list[int]:
    """The processes in the session that a driver leads."""
    return [other for other, fields in processes() if int(fields[SESSION]) == pid or environment_has(other, pid)]


def environment_has(pid: int, driver: int) -> bool:
    """Whether a process was started by a driver, also if it leads a session of its own."""
    try:
        return f"CRASH_DRIVER={driver}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def kill_group(driver: int) -> None:
    """Kills what a dead driver has left: its cluster."""
    for pid in descendants(driver):
        if pid != os.getpid():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def run_here(job_file: str) -> int:
    """Runs a job with a cluster of its own, in this process."""
    os.environ["CRASH_DRIVER"] = str(os.getpid())
    import ray

    ray.init(num_cpus=3, object_store_memory=200 << 20, include_dashboard=False, _temp_dir=os.environ["RAY_TMPDIR"])
    return 3 if rp.run_job(rp.read_job(job_file)).report.num_errors else 0


def main() -> None:
    """Runs the rounds that the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="Number of the first round, to repeat one.")
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--task", choices=JOBS, default="plain")
    parser.add_argument("--output")
    parser.add_argument("--job")
    arguments = parser.parse_args()
    if arguments.job:
        sys.exit(run_here(arguments.job))
    from tests.tiny_models import build_model

    with tempfile.TemporaryDirectory(prefix="crash-", dir="/tmp") as folder:
        model = str(build_model(MODELS[arguments.task], Path(folder, "model")))
        for index in range(arguments.first, arguments.first + arguments.rounds):
            output = f"{arguments.output}/{index}" if arguments.output else None
            random_ = random.Random(f"{arguments.seed} {index}")
            where = Path(folder, f"round-{index}")
            run_round(index, random_, where, model, output, arguments.rows, arguments.task)


if __name__ == "__main__":
    main()
