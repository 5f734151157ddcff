"""What a plan foretells without a model."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest

from ray_pipelines.data.plan import estimated_rows, sample_tables
from ray_pipelines.data.read import describe_input
from ray_pipelines.job_file import validate_job

NUM_ROWS = 5000


@pytest.mark.parametrize("read_format", ["jsonl", "csv"])
def test_rows_of_text_files_are_estimated_from_a_few(read_format: str, tmp_path: Path) -> None:
    random.seed(0)
    texts = ["word " * random.randint(1, 40) for _ in range(NUM_ROWS)]
    path = tmp_path / f"a folder with a rather long name/in.{read_format}"
    path.parent.mkdir()
    with path.open("w", newline="") as file:
        if read_format == "jsonl":
            file.writelines(json.dumps({"identifier": n, "text": text}) + "\n" for n, text in enumerate(texts))
        else:
            csv.writer(file).writerows([("identifier", "text"), *enumerate(texts)])
    job = {"task": "fill-mask", "read": {"path": str(path)}, "write": {"path": str(tmp_path / "out")}}
    source = describe_input(validate_job(job))
    assert estimated_rows(source, sample_tables(source, 256)) == pytest.approx(NUM_ROWS, rel=0.15)
