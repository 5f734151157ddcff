"""Interrupted jobs go on where they ended: every row once, nothing done twice, nothing mixed."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import transformers

import ray_pipelines as rp
from ray_pipelines.data.inventory import ROW_BITS, source_of
from ray_pipelines.data.resume import COMMITS, Commit
from ray_pipelines.job_file import validate_job

pytestmark = pytest.mark.usefixtures("ray_cluster")
Model = Callable[[str], str]


class NotingPipeline(transformers.TextClassificationPipeline):
    """Notes each row that it is given, and fails where the text says so."""

    def preprocess(self, inputs: str, **arguments: Any) -> Any:
        text, _, notes = inputs.partition("|")
        with Path(notes, str(os.getpid())).open("a") as file:
            file.write(f"{text}\n")
        if "bad" in text and not Path(notes, "healed").exists():
            raise ValueError("a bad row")
        return super().preprocess(text, **arguments)


class Interrupted(Exception):
    """Ends a run from its progress, as a kill would: nothing is tidied up in the output."""


def after(num_rows: int) -> Callable[[Any], None]:
    def interrupt(progress: Any) -> None:
        if progress.num_rows - progress.num_rows_before >= num_rows:
            raise Interrupted

    return interrupt


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    (tmp_path / "in").mkdir()
    return tmp_path


def text(folder: Path, name: str) -> str:
    return f"{name}|{folder}/notes"


def write_parquet(folder: Path, num_files: int = 4, num_rows: int = 100, bad: int = 10) -> set[str]:
    """Files of rows, one in `bad` of them failing; gives the names of all rows."""
    names = [f"{'bad' if n % bad == 3 else 'row'} {n}" for n in range(num_files * num_rows)]
    for part in range(num_files):
        of_file = names[part * num_rows : (part + 1) * num_rows]
        table = pa.table({"name": of_file, "text": [text(folder, name) for name in of_file]})
        pq.write_table(table, folder / f"in/{part}.parquet", row_group_size=30)
    return set(names)


def job_of(folder: Path, model: Model, **values: Any) -> rp.Job:
    settings: dict[str, Any] = {
        "task": "text-classification",
        "model": {
            "name": model("bert-classifier"),
            "pipeline_class": "tests.integration.test_resume:NotingPipeline",
        },
        "read": {"path": str(folder / "in"), "rows_per_block": 20},
        "write": {"path": str(folder / "out"), "columns": ["name"]},
        "workers": {"num_cpus": 1},
        "batch": {"window_rows": 20},
    }
    for key, value in values.items():
        settings[key] = {**settings[key], **value} if isinstance(settings.get(key), dict) else value
    return validate_job(settings)


def names_in(folder: Path, name: str = "out") -> Counter[str]:
    """The names of the rows in results and dead letters, by the manifest."""
    output = rp.read_output(str(folder / name))
    results = output.results.to_table()["name"].to_pylist()
    letters = [row["input"]["name"] for row in output.dead_letters.to_table().to_pylist()]
    return Counter([*results, *letters])


def noted(folder: Path) -> Counter[str]:
    return Counter(line for file in (folder / "notes").glob("[0-9]*") for line in file.read_text().splitlines())


def names_written(folder: Path) -> set[str]:
    """The names of the rows that the ledger has; files of `write_parquet` have 100 rows each."""
    lines = [line for file in (folder / "out" / COMMITS).glob("*.json") for line in file.read_text().splitlines()]
    numbers = [100 * source_of(row) + row % (1 << ROW_BITS) for line in lines for row in Commit.from_json(line).rows]
    return {f"{'bad' if number % 10 == 3 else 'row'} {number}" for number in numbers}


def test_interrupted_run_goes_on_and_does_nothing_twice_that_was_written(folder: Path, model: Model) -> None:
    names = write_parquet(folder)
    job = job_of(folder, model)
    with pytest.raises(Interrupted):
        rp.run_job(job, after(100))
    with pytest.raises(rp.ConfigError, match="an unfinished run"):
        rp.read_output(str(folder / "out"))
    written = names_written(folder)
    result = rp.run_job(job)
    assert result.report.counts() == {"num_rows": 400, "num_results": 360, "num_errors": 40}
    assert result.report.num_rows_before >= len(written) >= 100
    assert names_in(folder) == Counter(names)
    assert {name for name, times in noted(folder).items() if times > 1}.isdisjoint(written)
    on_disk = {
        f"{kind}/{file.name}" for kind in ("results", "dead_letters") for file in (folder / "out" / kind).iterdir()
    }
    manifest = json.loads((folder / "out/manifest.json").read_text())
    assert on_disk == {name for names in manifest["files"].values() for name in names}
    assert {file.name.partition("-")[0] for file in (folder / "out/_run").iterdir() if file.is_file()} == {"sources"}
    with pytest.raises(rp.ConfigError, match="holds the output of a finished run"):
        rp.run_job(job)


def test_retry_moves_healed_rows_to_the_results_and_goes_on_after_an_interruption(folder: Path, model: Model) -> None:
    names = write_parquet(folder, num_files=2, num_rows=100, bad=4)
    job = job_of(folder, model)
    assert rp.run_job(job).report.num_errors == 50
    assert {row["attempt"] for row in rp.read_output(str(folder / "out")).dead_letters.to_table().to_pylist()} == {1}
    assert rp.retry_job(rp.job_of_retry(str(folder / "out"))).report.num_errors == 50
    (folder / "notes/healed").touch()
    with pytest.raises(Interrupted):
        rp.retry_job(rp.job_of_retry(str(folder / "out"), ["read.rows_per_block=5"]), after(10))
    unchanged = rp.read_output(str(folder / "out"))
    assert {row["attempt"] for row in unchanged.dead_letters.to_table().to_pylist()} == {2}
    assert names_in(folder) == Counter(names)
    healed = rp.retry_job(rp.job_of_retry(str(folder / "out"), ["read.rows_per_block=5"]))
    assert healed.report.num_rows_before >= 10
    assert rp.read_output(str(folder / "out")).manifest["num_errors"] == 0
    assert names_in(folder) == Counter(names)
    assert rp.retry_job(rp.job_of_retry(str(folder / "out"))) is None
    with pytest.raises(rp.ConfigError, match=r"--set read.path: cannot be changed"):
        rp.job_of_retry(str(folder / "out"), ["read.path=elsewhere"])


def test_retry_looks_at_no_file_that_the_run_has_not_read(folder: Path, model: Model) -> None:
    table = pa.table({"name": ["bad", "row"], "text": [text(folder, "bad"), text(folder, "row")], "v": [1, 2]})
    pq.write_table(table, folder / "in/0.parquet")
    job = job_of(folder, model, write={"columns": ["name", "v"]})
    assert rp.run_job(job).report.num_errors == 1
    other = {"text": pa.array([1]), "v": pa.array(["a"]), "prediction": pa.array([0.5])}
    pq.write_table(pa.table(other), folder / "in/1.parquet")
    (folder / "in/2.jsonl").write_text("{}")
    (folder / "notes/healed").touch()
    healed = rp.retry_job(rp.job_of_retry(str(folder / "out")))
    assert healed is not None and healed.report.num_errors == 0
    results = rp.read_output(str(folder / "out")).to_arrow()
    assert {row["name"]: row["v"] for row in results.to_pylist()} == {"bad": 1, "row": 2}


def test_other_configuration_or_input_is_refused_by_name(folder: Path, model: Model) -> None:
    write_parquet(folder)
    with pytest.raises(Interrupted):
        rp.run_job(job_of(folder, model), after(20))
    with pytest.raises(rp.ConfigError, match=r"another configuration: parameters was \{\}, is \{\"top_k\": 2\}"):
        rp.run_job(job_of(folder, model, parameters={"top_k": 2}))
    with pytest.raises(rp.ConfigError, match=r"another configuration: write.partition_by was \[\], is \[\"name\"\]"):
        rp.run_job(job_of(folder, model, write={"partition_by": ["name"]}))
    table = pq.read_table(folder / "in/1.parquet")
    pq.write_table(table.slice(1), folder / "in/1.parquet")
    (folder / "in/2.parquet").unlink()
    with pytest.raises(rp.ConfigError, match=r"have changed .*in/1\.parquet.*\n.*have vanished .*in/2\.parquet"):
        rp.run_job(job_of(folder, model))
    result = rp.run_job(job_of(folder, model, write={"mode": "overwrite"}))
    assert result.report.counts()["num_rows"] == 299
