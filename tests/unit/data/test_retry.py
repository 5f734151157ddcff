"""What a retry looks at before it starts anything."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ray_pipelines as rp
from ray_pipelines.data.output import MANIFEST, Output, read_manifest, schema_to_text
from ray_pipelines.data.read import describe_input
from ray_pipelines.data.run_state import inventory_of
from ray_pipelines.job_file import validate_job

LETTERS = "dead_letters/part-0.parquet"
SOURCES = "_run/sources-0.parquet"


@pytest.fixture
def job(tmp_path: Path) -> rp.Job:
    """The job of a finished run with two dead letters."""
    pq.write_table(pa.table({"text": ["a", "b", "c"]}), tmp_path / "in.parquet")
    read, write = {"path": str(tmp_path / "in.parquet")}, {"path": str(tmp_path / "out")}
    job = validate_job({"task": "text-classification", "read": read, "write": write})
    output = Output.of(job)
    letters = pa.table({"source": [read["path"]] * 2, "row": [0, 2]})
    (tmp_path / "out/dead_letters").mkdir(parents=True)
    pq.write_table(letters, tmp_path / "out" / LETTERS)
    output.write_bytes(SOURCES, inventory_of(job, describe_input(job)).to_bytes())
    schemas = {"results": schema_to_text(pa.schema([])), "dead_letters": schema_to_text(letters.schema)}
    files = {"results": [], "dead_letters": [LETTERS]}
    manifest = {
        "run_id": "first",
        "files": files,
        "schemas": schemas,
        "sources": SOURCES,
        "num_errors": 2,
        "attempt": 1,
        "file_sizes": {LETTERS: {"num_rows": 2, "num_bytes": 10}},
        "job": {"write": write},
    }
    output.write_json(MANIFEST, manifest)
    return job


@pytest.mark.parametrize("letters", [pa.table({"source": ["in.parquet"], "row": [0]}), pa.table({"x": [1, 2]}), None])
def test_dead_letters_that_are_not_those_of_the_run_are_not_lost(
    letters: pa.Table | None, job: rp.Job, tmp_path: Path
) -> None:
    if letters is None:
        (tmp_path / "out" / LETTERS).write_bytes(b"PAR1")
    else:
        pq.write_table(letters, tmp_path / "out" / LETTERS)
    with pytest.raises(rp.ConfigError, match=r"out/dead_letters: expected the 2 dead letters of the run; got "):
        rp.retry_job(job)


def test_fewer_dead_letters_than_the_run_had_are_not_lost(job: rp.Job, tmp_path: Path) -> None:
    pq.write_table(pq.read_table(tmp_path / "out" / LETTERS).slice(1), tmp_path / "out" / LETTERS)
    with pytest.raises(rp.ConfigError, match=r"expected the 2 dead letters of the run; got 1\.$"):
        rp.retry_job(job)


@pytest.mark.parametrize("damage", [b"", b"PAR1"])
def test_a_damaged_inventory_is_named(damage: bytes, job: rp.Job) -> None:
    Output.of(job).write_bytes(SOURCES, damage)
    with pytest.raises(rp.ConfigError, match=rf"{SOURCES}: is damaged.* The dead letters cannot be found"):
        rp.retry_job(job)


def test_results_that_came_while_ray_was_starting_are_not_lost(job: rp.Job, monkeypatch: pytest.MonkeyPatch) -> None:
    output = Output.of(job)

    def start() -> None:
        output.write_json(MANIFEST, {**(read_manifest(output.folder) or {}), "run_id": "other"})

    monkeypatch.setattr("ray_pipelines.data.retry.start_ray", start)
    with pytest.raises(rp.ConfigError, match=r"out holds the output of another run by now\. Retry that\.$"):
        rp.retry_job(job)
    assert output.folder.sizes().keys() == {MANIFEST, LETTERS, SOURCES}
