"""A job that saves precision says in its report what that has changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

import ray_pipelines as rp
from ray_pipelines.job_file import validate_job
from ray_pipelines.report.terminal import summary_table
from tests.cases.media import TEXTS

pytestmark = pytest.mark.usefixtures("ray_cluster")


def run(folder: Path, model: str, **settings: Any) -> rp.JobResult:
    pq.write_table(pa.table({"text": [*TEXTS, None, *TEXTS]}), folder / "in.parquet")
    job = {
        "task": "text-classification",
        "model": model,
        "read": {"path": str(folder / "in.parquet")},
        "write": {"path": str(folder / "out")},
        "workers": {"num_cpus": 1},
        **settings,
    }
    return rp.run_job(validate_job(job))


def test_the_report_has_the_agreement_with_float32(model: Callable[[str], str], tmp_path: Path) -> None:
    result = run(tmp_path, model("bert-classifier"), optimize={"int8": True, "agreement_rows": 12})
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["optimize"] == ["int8"]
    assert report["agreement"]["num_rows"] == 12
    assert report["agreement"]["reference"] == "float32"
    assert report["agreement"]["share_equal"] > 0.8
    assert 0 < report["agreement"]["max_difference"] < 0.2
    console = Console(width=200, record=True, quiet=False, file=(tmp_path / "shown").open("w"))
    console.print(summary_table(result.report, "out"))
    assert "of 12 rows as in float32" in console.export_text()


def test_a_job_in_float32_has_nothing_to_compare(model: Callable[[str], str], tmp_path: Path) -> None:
    assert run(tmp_path, model("bert-classifier")).report.agreement is None
    assert json.loads((tmp_path / "out/report.json").read_text())["agreement"] is None
