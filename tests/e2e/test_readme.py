"""The README says what is so."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from ray_pipelines.cli import task_table
from ray_pipelines.job_file import validate_job

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def block(name: str) -> str:
    return re.search(rf"<!-- {name} -->\n(.*?)\n?<!-- /{name} -->", README, re.DOTALL)[1]  # type: ignore[index]


def fenced(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_task_table_is_that_of_the_tasks() -> None:
    assert block("tasks").strip() == task_table(), "run: ray-pipelines tasks --markdown"


@pytest.mark.parametrize("text", fenced("yaml"))
def test_job_files_are_valid(text: str) -> None:
    assert validate_job(yaml.safe_load(text)).task


@pytest.mark.parametrize("text", fenced("python"))
def test_python_calls_what_exists(text: str) -> None:
    lines = [line for line in text.splitlines() if "read_parquet" not in line and "write_parquet" not in line]
    ast.parse(text)
    exec("\n".join(lines), {})


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", README)
    assert links and all((ROOT / link).exists() for link in links)


def test_demo_output_shows_the_held_out_accuracy() -> None:
    (share,) = re.findall(r"Accuracy on 797 images that the model has not been trained on: (\d+\.\d)%", block("demo"))
    assert float(share) >= 95
