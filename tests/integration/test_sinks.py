"""What jobs leave, as people ask for it: few files of many, folders by value, shards with their media."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pytest
import ray

import ray_pipelines as rp
from ray_pipelines.config import FilesystemConfig, WriteConfig
from ray_pipelines.data.sinks import Sink
from ray_pipelines.job_file import validate_job
from tests.cases.media import image, png
from tests.unit.data.test_formats import read
from tests.unit.data.test_output import finished_run

pytestmark = pytest.mark.usefixtures("ray_cluster")
Model = Callable[[str], str]


def test_many_small_files_become_a_few_outputs_in_folders(model: Model, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for n in range(300):
        row = {"n": n, "lang": "de" if n % 3 else "en", "text": f"row {n}"}
        (tmp_path / f"in/{n:03}.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "in/300.jsonl").write_text(json.dumps({**row, "lang": "x" * 300}) + "\n")
    job = validate_job(
        {
            "task": "text-classification",
            "model": model("bert-classifier"),
            "read": {"path": str(tmp_path / "in"), "rows_per_block": 50},
            "write": {"path": str(tmp_path / "out"), "partition_by": ["lang"], "rows_per_file": 300},
            "workers": {"num_cpus": 1},
        }
    )
    report = rp.run_job(job).report
    assert (report.num_results, report.reasons) == (300, {"write: InvalidInput": 1})
    files = sorted(str(path.parent.relative_to(tmp_path)) for path in (tmp_path / "out/results").rglob("*.parquet"))
    assert set(files) == {"out/results/lang=de", "out/results/lang=en"}
    assert len(files) <= 4
    table = rp.read_output(str(tmp_path / "out")).results.to_table()
    assert sorted(zip(table["n"].to_pylist(), table["lang"].to_pylist(), strict=True)) == [
        (n, "de" if n % 3 else "en") for n in range(300)
    ]
    assert pyarrow.dataset.dataset(tmp_path / "out/results", partitioning="hive").count_rows() == 300


def test_a_folder_of_pictures_becomes_shards_with_pictures_and_labels(model: Model, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for n in range(6):
        (tmp_path / f"in/{n}.png").write_bytes(png(image(seed=n)) if n != 2 else b"no picture")
    job = validate_job(
        {
            "task": "image-classification",
            "model": model("vit-classifier"),
            "read": {"path": str(tmp_path / "in")},
            "write": {"path": str(tmp_path / "out"), "format": "webdataset"},
            "workers": {"num_cpus": 1},
        }
    )
    assert rp.run_job(job).report.counts() == {"num_rows": 6, "num_results": 5, "num_errors": 1}
    rows = sorted(read(tmp_path / "out/results"), key=lambda row: row["json"]["path"])
    assert [row["png"] for row in rows] == [png(image(seed=n)) for n in (0, 1, 3, 4, 5)]
    assert all(row["json"]["prediction"][0]["label"] for row in rows)
    (letters,) = (tmp_path / "out/dead_letters").glob("*.jsonl")
    assert json.loads(letters.read_text())["source"].endswith("2.png")


def test_results_go_on_into_tables_of_lance_and_iceberg(model: Model, tmp_path: Path) -> None:
    import lance
    from pyiceberg.catalog import load_catalog

    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"n": n, "text": f"row {n}"}) + "\n" for n in range(20)))
    job = validate_job(
        {
            "task": "text-classification",
            "model": model("bert-classifier"),
            "read": {"path": str(tmp_path / "in.jsonl")},
            "write": {"path": str(tmp_path / "out")},
            "workers": {"num_cpus": 1},
        }
    )
    rp.run_job(job)
    output = rp.read_output(str(tmp_path / "out"))
    expected = output.to_arrow().sort_by("n").to_pylist()

    lance.write_dataset(output.results.scanner().to_reader(), tmp_path / "out.lance")
    assert lance.dataset(tmp_path / "out.lance").to_table().sort_by("n").to_pylist() == expected

    catalog = load_catalog(
        "local", type="sql", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{tmp_path}/warehouse"
    )
    catalog.create_namespace("reviews")
    table = catalog.create_table("reviews.sentiment", schema=output.results.schema)
    table.append(output.results.scanner().to_reader())
    assert table.scan().to_arrow().sort_by("n").to_pylist() == expected


@pytest.mark.parametrize("partition_by", [[], ["key", "name"]])
@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_a_ray_dataset_has_the_values_and_types_of_the_table(
    format: str, partition_by: list[str], tmp_path: Path
) -> None:
    table = pa.table(
        {
            "n": pa.array([0, 1, 2], pa.int32()),
            "day": pa.array([datetime.date(2026, 1, 1), None, None]),
            "text": ["2026-01-01T00:00:00Z", "x" * 2_000_000, None],
            "key": pa.array([1, None, 1], pa.int16()),
            "name": ["01", "x/y", None],
        }
    )
    folder = tmp_path / "of=others #%20?"
    sink = Sink(WriteConfig(path="x", format=format, partition_by=partition_by), FilesystemConfig())
    for file in sink.results(table, "part-0", "{}"):
        (folder / "results" / file.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "results" / file.path).write_bytes(file.data)
    output = finished_run(folder, table.schema, partition_by=partition_by)
    found = pa.concat_tables(ray.get(output.ray_dataset().to_arrow_refs()))
    assert found.select(table.schema.names).sort_by("n").equals(table)
    assert {field.name: field.type for field in found.schema} == {field.name: field.type for field in table.schema}
