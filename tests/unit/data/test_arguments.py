"""What is wrong with an argument of the Python API is told by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ray_pipelines as rp


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "task: is required; or the name of a model"),
        ({"task": 3}, "task: expected the name of a task; got 3."),
        ({"task": "fill-mask", "model": 3}, "model: expected a hub id, a folder or an object; got 3."),
        ({"task": "fill-mask", "tokenizer": ["a"]}, "tokenizer: expected a hub id, a folder or an object; got"),
        ({"task": "fill-mask", "seed": "x"}, "seed: expected a whole number; got 'x'."),
        ({"task": "fill-mask", "workers": 3}, "workers: expected serve://NAME or a mapping; got 3."),
        ({"task": "fill-mask", "batch": 8}, "batch: expected a mapping of budget, max_size"),
        ({"task": "fill-mask", "optimize": True}, "optimize: expected a mapping of compile, int8"),
        ({"task": "fill-mask", "batch_size": -1}, "batch.max_size: expected greater than 0; got -1."),
    ],
)
def test_what_is_wrong_is_told_by_its_name(arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(rp.ConfigError) as error:
        rp.pipeline(**arguments)
    assert expected in str(error.value)


def test_several_tasks_are_a_mapping_of_specifications() -> None:
    spec = rp.pipeline("fill-mask")
    for wrong in ([spec], {"mask": "fill-mask"}):
        with pytest.raises(rp.ConfigError, match="specs: expected a mapping"):
            rp.pipelines(wrong)  # type: ignore[arg-type]


def test_a_job_is_read_before_it_runs(tmp_path: Path) -> None:
    for use in (rp.run_job, rp.check_job):
        with pytest.raises(TypeError, match="Call read_job"):
            use("job.yaml")  # type: ignore[arg-type, operator]
    (tmp_path / "job.yaml").write_text("task: fill-mask\nread: {path: a}\nwrite: {path: b}\n")
    with pytest.raises(TypeError, match=r"Wrap it: \['read.limit=3'\]"):
        rp.read_job(tmp_path / "job.yaml", "read.limit=3")
