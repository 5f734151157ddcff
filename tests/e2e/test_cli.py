"""The command line as a user sees it: output, messages and exit status of real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import transformers
import yaml

from ray_pipelines import tasks
from tests.machine import free_port, heed_ctrl_c

Model = Callable[[str], str]
ROOT = Path(__file__).parents[2]


def environment(**further: str) -> dict[str, str]:
    return {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "RAY_AUTH_MODE": "disabled", **further}


def command(*arguments: str, **further: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ray_pipelines", *arguments],
        env=environment(**further),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=200,
    )


@pytest.fixture
def job_file(model: Model, tmp_path: Path) -> Path:
    rows = [{"review": f"row {n} [/b]"} for n in range(20)] + [{"review": None}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values: dict[str, Any] = {
        "task": "sentiment-analysis",
        "model": model("bert-classifier"),
        "inputs": {"text": "review"},
        "read": {"path": str(tmp_path / "in.jsonl")},
        "write": {"path": str(tmp_path / "out"), "format": "jsonl"},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "job.yaml"


def test_run_with_a_dead_letter_exits_with_3(job_file: Path) -> None:
    done = command("run", str(job_file))
    assert done.returncode == 3, done.stdout + done.stderr
    for expected in ("dead letters", "1 x decode: InvalidInput", "rows/s", "the first predictions", "row 0 [/b]"):
        assert expected in done.stdout
    assert "core_worker" not in done.stderr and "Traceback" not in done.stderr
    report = json.loads((job_file.parent / "out/report.json").read_text())
    assert (report["num_rows"], report["num_errors"]) == (21, 1)
    again = command("run", str(job_file))
    assert again.returncode == 2
    assert "holds the output of a finished run" in again.stderr


def test_run_without_dead_letters_exits_with_0(job_file: Path) -> None:
    done = command("run", str(job_file), "--set", "read.limit=20", "--set", "workers.num_cpus=1")
    assert done.returncode == 0, done.stdout + done.stderr


class SlowPipeline(transformers.TextClassificationPipeline):
    """Takes a while for each row."""

    def preprocess(self, inputs: str, **arguments: Any) -> Any:
        time.sleep(0.03)
        return super().preprocess(inputs, **arguments)


@pytest.mark.parametrize(
    ("signals", "status"), [([signal.SIGTERM], 143), ([signal.SIGINT] * 2, 130)], ids=["terminated", "ctrl-c twice"]
)
def test_run_that_is_told_to_end_says_that_it_goes_on_later(
    signals: list[signal.Signals], status: int, job_file: Path
) -> None:
    (job_file.parent / "in.jsonl").write_text('{"review": "a row"}\n' * 1000)
    settings = ("read.rows_per_block=5", "workers.num_cpus=1", "model.pipeline_class=tests.e2e.test_cli:SlowPipeline")
    arguments = [sys.executable, "-m", "ray_pipelines", "run", str(job_file)]
    arguments += [part for setting in settings for part in ("--set", setting)]
    with subprocess.Popen(
        arguments,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=heed_ctrl_c,
    ) as process:
        while process.poll() is None and not any((job_file.parent / "out").glob("_run/commits/*.json")):
            time.sleep(0.1)
        assert process.stderr is not None
        first, *others = signals
        process.send_signal(first)
        said = next((line for line in iter(process.stderr.readline, "") if line.startswith("Interrupted.")), "")
        for number in others:
            process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == status, stderr
    assert said.startswith("Interrupted. What is written stays") and "Interrupted." not in stderr
    assert "Traceback" not in stderr and "SIGTERM" not in stderr and "core_worker" not in stderr


def test_job_that_fails_exits_with_1(job_file: Path, model: Model) -> None:
    done = command("run", str(job_file), "--set", f"model={model('vit-classifier')}")
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "cannot be loaded for text-classification" in line
    too_large = command("run", str(job_file), "--set", "workers.num_cpus=1000")
    assert too_large.returncode == 1
    assert "1000 CPUs" in too_large.stderr


def test_check_says_what_the_job_does_and_starts_nothing(job_file: Path) -> None:
    done = command("check", str(job_file))
    assert done.returncode == 0
    assert "1 jsonl file(s)" in done.stdout and "text ← review" in done.stdout
    assert not (job_file.parent / "out").exists()


def test_check_reports_all_problems_at_once(job_file: Path) -> None:
    settings = ["inputs.text=reviw", "model=./nothing", f"write.path={job_file}", "write.columns=[reviw]"]
    done = command("check", str(job_file), *(part for setting in settings for part in ("--set", setting)))
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 4
    for expected in ("there is no folder './nothing'", 'no column "reviw". Did you mean "review"?', "is a file"):
        assert any(expected in error for error in errors)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["read.path=/nowhere/at/all"], "does not exist"),
        (["task=text-clasification"], 'Did you mean "text-classification"'),
        (["parameters.topk=1"], 'Did you mean "top_k"'),
    ],
)
def test_wrong_job_exits_with_2_before_anything_starts(job_file: Path, settings: list[str], expected: str) -> None:
    done = command("run", str(job_file), *(part for setting in settings for part in ("--set", setting)))
    assert done.returncode == 2
    assert expected in done.stderr


def test_help_and_tasks_and_schema_teach() -> None:
    assert "Exit status" in command("--help").stdout
    assert "--set" in command("run", "--help").stdout
    listed = command("tasks").stdout
    assert all(name in listed for name in tasks.names())
    shown = command("tasks", "ner").stdout
    assert "aggregation_strategy" in shown and "list<item: struct<entity" in shown
    unknown = command("tasks", "nerr")
    assert unknown.returncode == 2 and "there is no task" in unknown.stderr
    assert json.loads(command("schema").stdout)["title"] == "Job"
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", command("--version").stdout)


@pytest.mark.parametrize("file", sorted((ROOT / "jobs").glob("*.yaml")), ids=lambda file: file.name)
def test_example_job_is_valid(file: Path) -> None:
    from ray_pipelines import read_job

    assert read_job(file).parts


def test_every_task_has_an_example_job() -> None:
    jobs = [yaml.safe_load(file.read_text()) for file in (ROOT / "jobs").glob("*.yaml")]
    named = {job["task"] for job in jobs if "tasks" not in job}
    assert {tasks.get(name).name.partition("_")[0] for name in named} == set(tasks.names())


def test_serve_answers_until_it_is_told_to_end(model: Model, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({"task": "fill-mask", "model": model("bert-mlm")}))
    arguments = [sys.executable, "-m", "ray_pipelines", "serve", str(tmp_path / "job.yaml"), "--port", str(port)]
    with (
        tempfile.TemporaryDirectory(prefix="end-", dir="/tmp") as folder,
        subprocess.Popen(
            arguments,
            env=environment(RAY_TMPDIR=folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        ) as process,
    ):
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        assert f"Answers at http://127.0.0.1:{port}" in lines[1]
        answer = httpx2.post(f"http://127.0.0.1:{port}", json={"inputs": "The [MASK] fox"}, timeout=60)
        assert len(answer.json()) == 5
        process.terminate()
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in stderr and "SIGTERM" not in stderr


def test_demo_is_right_on_held_out_digits() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jobs.demo"],
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (share,) = re.findall(r"Accuracy on 797 images .*?: (\d+\.\d)%", " ".join(done.stdout.split()))
    assert float(share) >= 95
