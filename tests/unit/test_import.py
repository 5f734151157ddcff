"""Importing the package, listing tasks and checking a job load none of the heavy libraries."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest

import ray_pipelines
from ray_pipelines import tasks

HEAVY = ("ray", "torch", "transformers")


def loaded_after(code: str) -> list[str]:
    script = f"import sys\n{code}\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return list(eval(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import ray_pipelines",
        "import ray_pipelines as rp; rp.tasks.names(); [rp.tasks.get(name) for name in rp.tasks.names()]",
        "import ray_pipelines as rp; rp.pipeline('text-classification', model='org/model', top_k=2)",
        "from ray_pipelines.cli import app",
        "import ray_pipelines as rp; job = rp.read_job('jobs/digits.yaml', ['read.path=jobs/models'])",
    ],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    assert loaded_after(code) == []


def test_names_of_tasks_are_a_type() -> None:
    named = {*tasks.names(), *(alias for name in tasks.names() for alias in tasks.get(name).aliases)}
    assert set(get_args(tasks.TaskName)) == named


def test_all_is_complete_sorted_and_importable() -> None:
    assert ray_pipelines.__all__ == sorted(ray_pipelines.__all__, key=lambda name: (name.islower(), name))
    assert all(getattr(ray_pipelines, name).__doc__ for name in ray_pipelines.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ray_pipelines.nothing  # noqa: B018  # the attribute access is what is tested
