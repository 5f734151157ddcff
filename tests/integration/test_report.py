"""What a run leaves for people: a page, and a certificate that what was written is what the plain pipeline gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ray_pipelines as rp
from ray_pipelines.job_file import validate_job
from tests.cases.media import image, png

pytestmark = pytest.mark.usefixtures("ray_cluster")
Model = Callable[[str], str]


def test_checked_rows_agree_and_pictures_are_shown(model: Model, tmp_path: Path) -> None:
    pictures = [png(image(seed=n)) for n in range(60)]
    for part in range(3):
        table = pa.table({"n": range(20), "picture": pa.array(pictures[part::3], type=pa.binary())})
        pq.write_table(table, tmp_path / f"in-{part}.parquet", row_group_size=8)
    job = validate_job(
        {
            "task": "image-classification",
            "model": model("vit-classifier"),
            "inputs": {"image": "picture"},
            "read": {"path": str(tmp_path / "in-*.parquet"), "rows_per_block": 10},
            "write": {"path": str(tmp_path / "out"), "columns": ["n"]},
            "workers": {"num_cpus": 1},
            "verify": 16,
            "price_per_hour": 2.5,
        }
    )
    report = rp.run_job(job).report
    assert report.certificate is not None and report.cost is not None
    assert (report.certificate.num_rows, report.certificate.num_equal) == (16, 16)
    assert report.certificate.max_difference < 1e-5
    values = json.loads((tmp_path / "out/report.json").read_text())
    assert values["certificate"]["share_equal"] == 1 and values["price"]["run"] > 0
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("<article") == 12 and page.count("data:image/") == 12
    assert "in-2.parquet#" in page
