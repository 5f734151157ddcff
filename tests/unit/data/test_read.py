"""What a job reads, and why it does not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ray_pipelines as rp
from ray_pipelines.data.read import Input, describe_input
from ray_pipelines.job_file import validate_job


def described(path: Path, task: str = "text-classification", **settings: Any) -> Input:
    job = {"task": task, "read": {"path": str(path / "in")}, "write": {"path": str(path / "out")}, **settings}
    return describe_input(validate_job(job))


def write(path: Path, **columns: Any) -> None:
    (path / "in").mkdir(exist_ok=True)
    pq.write_table(pa.table({"text": ["a"], **columns}), path / "in/a.parquet")


def test_a_file_whose_name_is_not_utf8_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "in/a.parquet").rename(os.fsdecode(os.fsencode(tmp_path / "in") + b"/caf\xe9.parquet"))
    with pytest.raises(rp.ConfigError, match=r"^read\.path: expected names in UTF-8; got .*caf\\xe9\.parquet\."):
        described(tmp_path)
