"""Jobs from files to results and dead letters."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

import ray_pipelines as rp
from ray_pipelines.job_file import validate_job
from tests.cases.media import TEXTS, image, png
from tests.closeness import assert_close

pytestmark = pytest.mark.usefixtures("ray_cluster")
Model = Callable[[str], str]


def job_of(folder: Path, **values: Any) -> rp.Job:
    settings = {"workers": {"num_cpus": 1}, "write": {"path": str(folder / "out")}, **values}
    return validate_job(settings)


def read_folder(folder: Path) -> list[dict[str, Any]]:
    files = sorted(folder.glob("*"))
    if files and files[0].suffix == ".jsonl":
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return pyarrow.dataset.dataset([str(file) for file in files]).to_table().to_pylist() if files else []


def test_three_bad_rows_in_a_thousand_are_dead_letters_with_reasons(model: Model, tmp_path: Path) -> None:
    rows: list[Any] = [{"n": n, "review": f"review {n} {TEXTS[n % 8][:20]}"} for n in range(1000)]
    rows[17]["review"] = None
    rows[400]["review"] = 5
    lines = [json.dumps(row) for row in rows]
    lines[999] = '{"n": 999, "review": "cut off'
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    job = job_of(
        tmp_path,
        task="sentiment-analysis",
        model=model("bert-classifier"),
        inputs={"text": "review"},
        read={"path": str(tmp_path / "in.jsonl"), "rows_per_block": 200},
    )
    result = rp.run_job(job)
    assert result.report.counts() == {"num_rows": 1000, "num_results": 997, "num_errors": 3}
    results = read_folder(tmp_path / "out/results")
    letters = {letter["row"]: letter for letter in read_folder(tmp_path / "out/dead_letters")}
    assert sorted(row["n"] for row in results) == [n for n in range(1000) if n not in (17, 400, 999)]
    assert {row: letter["message"] for row, letter in letters.items() if row != 999} == {
        17: "text: expected a value; got null.",
        400: "review: expected string; got 5.",
    }
    assert "not valid JSON" in letters[999]["message"]
    assert [letters[row]["stage"] for row in (17, 400, 999)] == ["decode", "read", "read"]
    assert letters[17]["id"] == f"{tmp_path}/in.jsonl#17"
    assert letters[400]["input"]["n"] == 400
    by_number = {row["n"]: row["prediction"] for row in results}
    texts = [rows[n]["review"] for n in range(30) if n != 17]
    expected = rp.pipeline("text-classification", model=model("bert-classifier")).run(texts)
    assert_close([by_number[n] for n in range(30) if n != 17], expected)


def test_one_corrupt_image_is_one_dead_letter(model: Model, tmp_path: Path) -> None:
    pictures: list[Any] = [png(image(seed=n)) for n in range(40)]
    pictures[7] = pictures[7][: len(pictures[7]) // 2]
    table = pa.table({"n": range(40), "picture": pa.array(pictures, type=pa.binary())})
    for part in range(4):
        folder = tmp_path / f"in/kind=k{part % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.slice(part * 10, 10), folder / f"{part}.parquet", row_group_size=4)
    job = job_of(
        tmp_path,
        task="image-classification",
        model=model("vit-classifier"),
        inputs={"image": "picture"},
        read={"path": str(tmp_path / "in"), "rows_per_block": 8},
        write={"path": str(tmp_path / "out"), "columns": ["n", "kind"], "format": "jsonl"},
    )
    report = rp.run_job(job).report
    assert report.counts() == {"num_rows": 40, "num_results": 39, "num_errors": 1}
    results = read_folder(tmp_path / "out/results")
    assert {row["n"]: row["kind"] for row in results} == {n: f"k{n // 10 % 2}" for n in range(40) if n != 7}
    assert set(results[0]) == {"n", "kind", "prediction"}
    (letter,) = read_folder(tmp_path / "out/dead_letters")
    assert (letter["stage"], letter["error_type"], letter["row"]) == ("decode", "MediaError", 7)
    assert letter["source"].endswith("kind=k0/0.parquet")


@pytest.mark.parametrize("read_format", ["csv", "text", "images"])
def test_other_formats(read_format: str, model: Model, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    if read_format == "csv":
        (folder / "a.csv").write_text('n,text\n1,good\nx,bad number\n3,4\n4\n5,"two\nlines"\n')
        inputs, task, name, failed = {"text": "text"}, "text-classification", "bert-classifier", {3: "read"}
    elif read_format == "text":
        (folder / "a.txt").write_bytes(b"one\n\ntwo \xc3\xa9\nbroken \xff\nfour")
        inputs, task, name, failed = {}, "text-classification", "bert-classifier", {3: "read"}
    else:
        for n in range(3):
            (folder / f"{n}.png").write_bytes(png(image(seed=n)) if n != 1 else b"no picture")
        inputs, task, name, failed = {}, "image-classification", "vit-classifier", {0: "decode"}
    job = job_of(tmp_path, task=task, model=model(name), inputs=inputs, read={"path": str(folder)}, max_error_rate=1)
    report = rp.run_job(job).report
    letters = read_folder(tmp_path / "out/dead_letters")
    assert {letter["row"]: letter["stage"] for letter in letters} == failed
    expected_rows = {"csv": 5, "text": 4, "images": 3}[read_format]
    assert report.num_rows == expected_rows
    assert len(read_folder(tmp_path / "out/results")) == expected_rows - len(failed)


def test_hopeless_job_fails_with_the_most_frequent_reasons(model: Model, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": None if n % 3 else "a"}) + "\n" for n in range(30)))
    job = job_of(
        tmp_path,
        task="text-classification",
        model=model("bert-classifier"),
        read={"path": str(tmp_path / "in.jsonl")},
        max_error_rate=0.1,
    )
    with pytest.raises(rp.TooManyErrors, match=r"20 of 30 did\. Most frequent: decode: InvalidInput"):
        rp.run_job(job)
    assert not (tmp_path / "out/manifest.json").exists()


def test_output_of_a_finished_run_is_not_touched_without_a_word(model: Model, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    values: dict[str, Any] = {
        "task": "text-classification",
        "model": model("bert-classifier"),
        "read": {"path": str(tmp_path / "in.jsonl")},
    }
    rp.run_job(job_of(tmp_path, **values))
    with pytest.raises(rp.ConfigError, match="holds the output of a finished run"):
        rp.run_job(job_of(tmp_path, **values))
    overwritten = rp.run_job(job_of(tmp_path, **values, write={"path": str(tmp_path / "out"), "mode": "overwrite"}))
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["run_id"] == overwritten.report.provenance["run_id"]
    on_disk = sorted(f"results/{file.name}" for file in (tmp_path / "out/results").iterdir())
    assert on_disk == manifest["files"]["results"]
    metadata = pq.read_metadata(tmp_path / "out" / manifest["files"]["results"][0]).metadata
    assert json.loads(metadata[b"ray_pipelines"])["task"] == "text-classification"


def test_limit_and_empty_input(model: Model, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": f"row {n}"}) + "\n" for n in range(100)))
    values: dict[str, Any] = {"task": "text-classification", "model": model("bert-classifier")}
    limited = job_of(tmp_path, **values, read={"path": str(tmp_path / "in.jsonl"), "limit": 7})
    assert rp.run_job(limited).report.num_rows == 7
    pq.write_table(pa.table({"text": pa.array([], type=pa.string())}), tmp_path / "empty.parquet")
    empty = job_of(
        tmp_path,
        **values,
        read={"path": str(tmp_path / "empty.parquet")},
        write={"path": str(tmp_path / "empty-out")},
    )
    assert rp.run_job(empty).report.num_rows == 0
    assert (tmp_path / "empty-out/manifest.json").exists()


def test_split_stages_in_a_job(model: Model, tmp_path: Path) -> None:
    pictures = [png(image(seed=n)) for n in range(20)]
    pq.write_table(pa.table({"n": range(20), "image": pictures}), tmp_path / "in.parquet")
    outputs = {}
    for stages in ("fused", "split"):
        job = job_of(
            tmp_path,
            task="image-classification",
            model=model("vit-classifier"),
            read={"path": str(tmp_path / "in.parquet"), "rows_per_block": 5},
            write={"path": str(tmp_path / stages), "columns": ["n"]},
            workers={"num_cpus": 1, "stages": stages},
        )
        rp.run_job(job)
        outputs[stages] = sorted(read_folder(tmp_path / stages / "results"), key=lambda row: row["n"])
    assert_close(outputs["split"], outputs["fused"])


def test_relative_paths_are_those_of_the_driver(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster was started in another folder than the one where the job is started."""
    shutil.copytree(model("bert-classifier"), tmp_path / "my-model")
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n')
    monkeypatch.chdir(tmp_path)
    job = validate_job(
        {
            "task": "text-classification",
            "model": "my-model",
            "read": {"path": "in.jsonl"},
            "write": {"path": "out"},
            "workers": {"num_cpus": 1},
        }
    )
    assert rp.run_job(job).report.num_results == 1
    assert len(read_folder(tmp_path / "out/results")) == 1
