"""What is wrong with a job before anything starts."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ray_pipelines as rp
from ray_pipelines.data.job import check_job
from ray_pipelines.data.output import MANIFEST, Output
from ray_pipelines.job_file import validate_job
from tests.unit.data.test_run_state import manifest_of


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


def test_a_run_that_ended_while_ray_was_starting_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "in.parquet")
    read, write = {"path": str(tmp_path / "in.parquet")}, {"path": str(tmp_path / "out")}
    job = validate_job({"task": "text-classification", "read": read, "write": write})
    output = Output.of(job)

    def start() -> None:
        output.write_json(MANIFEST, manifest_of("other", "_run/sources-a.parquet"))

    monkeypatch.setattr("ray_pipelines.data.job.start_ray", start)
    with pytest.raises(rp.ConfigError, match=r"out holds the output of a finished run"):
        rp.run_job(job)
    assert output.folder.sizes().keys() == {MANIFEST}


@pytest.mark.parametrize(
    ("path", "variable"), [("$OUT/x", "$OUT"), ("{}/${{DAY}}", "${DAY}"), ("{}/a$b", ""), ("{}/100$", "")]
)
def test_a_folder_with_a_variable_of_a_shell_is_refused(path: str, variable: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "in.parquet")
    read, write = {"path": str(tmp_path / "in.parquet")}, {"path": path.format(tmp_path)}
    job = validate_job({"task": "text-classification", "read": read, "write": write})
    if not variable:
        check_job(job)
        return
    with pytest.raises(rp.ConfigError) as refused:
        check_job(job)
    assert f"No variable is replaced here, such as {variable}: write its value, or use --set" in str(refused.value)
