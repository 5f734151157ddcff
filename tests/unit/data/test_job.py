"""What is wrong with a job before anything starts."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ray_pipelines as rp
from ray_pipelines.data.job import check_job
from ray_pipelines.job_file import validate_job


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_results_are_not_written_where_the_next_attempt_would_read_them(prefix: str, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    pq.write_table(pa.table({"text": ["a"]}), source / "a.parquet")

    def check(path: str, name: str) -> None:
        values = {"task": "text-classification", "read": {"path": prefix + path}, "write": {"path": name}}
        check_job(validate_job(values))

    for name in (f"{source}/out", f"{source}/deeper/out"):
        with pytest.raises(rp.ConfigError, match=r"write\.path: .* is in .*, which is read\. Choose a folder"):
            check(str(source), name)
    check(str(source), f"{source}/_out")
    check(str(source), f"{source}-out")
    check(f"{source}/*.parquet", f"{source}/out")
