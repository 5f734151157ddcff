"""A program of a user's in a fresh interpreter: its terminal shows what it prints, and no library's warnings."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.machine import inherited

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, sys
from pathlib import Path

import ray_pipelines as rp

model, folder = sys.argv[1], Path(sys.argv[2])
texts = [f"text number {n}" for n in range(40)]
spec = rp.pipeline("text-classification", model=model)
print(len(spec.run(texts)))
print(len(spec.map(texts)), len(list(spec.map(iter(texts)))))
(folder / "in.jsonl").write_text("".join(json.dumps({"text": text}) + chr(10) for text in texts))
values = {"task": "text-classification", "model": model, "read": {"path": f"{folder}/in.jsonl"}}
job = rp.Job.model_validate({**values, "write": {"path": f"{folder}/out"}})
print(rp.run_job(job).report.num_results)
print(len(rp.read_output(f"{folder}/out").to_pandas()))
import ray

print(len(spec(ray.data.read_json(f"{folder}/in.jsonl")).to_pandas()))
"""


def test_a_program_prints_only_what_it_prints(model: Callable[[str], str], tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="quiet-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        own = {"RAY_TMPDIR": folder, "RAY_AUTH_MODE": "disabled", "RAY_PIPELINES_CACHE": f"{folder}/cache"}
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**inherited("RAY_", "PYTHONWARNINGS"), **own, "PYTHONPATH": path}
        command = [sys.executable, "-c", PROGRAM, model("bert-classifier"), str(tmp_path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["40", "40", "40", "40", "40", "40"]
    chatter = [line for line in done.stderr.splitlines() if "warn" in line.lower() or "deprecat" in line.lower()]
    assert chatter == []
