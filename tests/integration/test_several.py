"""Several tasks in one job: each column as a job of its task alone has it, every row once, decoded once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ray_pipelines as rp
from ray_pipelines.data.plan import plan_job
from ray_pipelines.job_file import validate_job
from tests.cases.media import TEXTS, image, png
from tests.closeness import assert_close

pytestmark = pytest.mark.usefixtures("ray_cluster")
Model = Callable[[str], str]

ROWS: list[Any] = [TEXTS[index % len(TEXTS)][: 5 + index % 40] for index in range(120)]
ROWS[7], ROWS[33] = None, "word " * 100  # wrong for all; too long for the sentiment alone


def tasks_of(model: Model) -> dict[str, Any]:
    return {
        "sentiment": {"task": "text-classification", "model": model("bert-classifier"), "parameters": {"top_k": 2}},
        "entities": {
            "task": "token-classification",
            "model": model("bert-ner"),
            "parameters": {"aggregation_strategy": "simple", "stride": 4},
            "batch": {"max_size": 8},
        },
        "vector": {
            "task": "feature-extraction",
            "model": model("bert-features"),
            "parameters": {"pooling": "mean", "truncation": True},
        },
    }


def job_of(folder: Path, tasks: dict[str, Any], rows: list[Any] = ROWS, **values: Any) -> rp.Job:
    if not (folder / "in.parquet").exists():
        pq.write_table(pa.table({"n": range(len(rows)), "review": rows}), folder / "in.parquet", row_group_size=30)
    settings: dict[str, Any] = {
        "tasks": tasks,
        "inputs": {"text": "review"},
        "read": {"path": str(folder / "in.parquet"), "rows_per_block": 30},
        "write": {"path": str(folder / "out")},
        "workers": {"num_cpus": 1},
    }
    return validate_job({**settings, **values})


def test_each_column_is_that_of_its_task_and_a_row_that_fails_in_one_fails_once(model: Model, tmp_path: Path) -> None:
    tasks = tasks_of(model)
    job = job_of(tmp_path, tasks, verify=8)
    report = rp.run_job(job).report
    assert report.counts() == {"num_rows": 120, "num_results": 118, "num_errors": 2}
    output = rp.read_output(str(tmp_path / "out"))
    table = output.to_arrow().sort_by("n")
    assert table.column_names == ["n", "review", "sentiment", "entities", "vector"]
    good = [row for index, row in enumerate(ROWS) if index not in (7, 33)]
    assert table["review"].to_pylist() == good
    for name, one in tasks.items():
        spec = rp.pipeline(one["task"], model=one["model"], **one["parameters"])
        (result_type,) = spec.result_types().values()
        assert table.schema.field(name).type == result_type
        assert_close(table[name].to_pylist(), pa.array(spec.run(good), result_type).to_pylist())
    letters = {row["row"]: row for row in output.to_arrow("dead_letters").to_pylist()}
    assert letters[7]["message"] == "sentiment: text: expected a value; got null."
    assert letters[33]["message"].startswith("sentiment: text: has ") and letters[33]["error_type"] == "RowTooLarge"
    assert letters[33]["input"]["review"] == ROWS[33]
    manifest = output.manifest
    assert set(manifest["tasks"]) == set(tasks) and manifest["tasks"]["vector"]["parameters"]["pooling"] == "mean"
    assert manifest["configuration"]["tasks.entities.parameters"] == tasks["entities"]["parameters"]
    assert report.certificate is not None and (report.certificate.num_rows, report.certificate.share_equal) == (24, 1.0)
    written = json.loads((tmp_path / "out/report.json").read_text())["figures_of_tasks"]
    assert {name: figures["cost_unit"] for name, figures in written.items()} == dict.fromkeys(tasks, "tokens")
    assert all(figures["step_shares"]["forward"] > 0 for figures in written.values())
    assert "entities" in (tmp_path / "out/report.html").read_text()


def test_interrupted_job_goes_on_and_another_one_is_refused_by_name(model: Model, tmp_path: Path) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(progress: Any) -> None:
        if progress.num_rows >= 30:
            raise Interrupted

    tasks = tasks_of(model)
    with pytest.raises(Interrupted):
        rp.run_job(job_of(tmp_path, tasks), interrupt)
    other = {**tasks, "sentiment": {**tasks["sentiment"], "parameters": {}}}
    with pytest.raises(rp.ConfigError, match=r"tasks\.sentiment\.parameters was \{\"top_k\": 2\}, is \{\}"):
        rp.run_job(job_of(tmp_path, other))
    with pytest.raises(rp.ConfigError, match=r"tasks\.vector\.task was \"feature-extraction\", is null"):
        rp.run_job(job_of(tmp_path, {name: one for name, one in tasks.items() if name != "vector"}))
    report = rp.run_job(job_of(tmp_path, tasks)).report
    assert report.num_rows_before >= 30 and report.num_rows == 120
    numbers = rp.read_output(str(tmp_path / "out")).to_arrow(columns=["n"])["n"].to_pylist()
    assert sorted(numbers) == [n for n in range(120) if n not in (7, 33)]
    healed = rp.retry_job(rp.job_of_retry(str(tmp_path / "out"), ["tasks.sentiment.parameters.truncation=true"]))
    assert healed is not None and healed.report.num_errors == 1
    assert rp.read_output(str(tmp_path / "out")).manifest["num_errors"] == 1
    with pytest.raises(rp.ConfigError, match="cannot be changed by a retry"):
        rp.job_of_retry(str(tmp_path / "out"), ["tasks.sentiment.task=fill-mask"])


def test_plan_says_what_all_of_them_take(model: Model, tmp_path: Path) -> None:
    plan = plan_job(job_of(tmp_path, tasks_of(model), verify=0), 40)
    assert plan.workers == "1 x (1 CPU, 1 thread, 3 models), fused stages"
    assert plan.forecast is not None and plan.trial.weight_bytes > 0
    assert set(plan.trial.counters.parts) == {"sentiment", "entities", "vector"}
    assert set(plan.samples[0].prediction) == {"sentiment", "entities", "vector"}


@pytest.fixture(scope="module")
def both(model: Model) -> rp.PipelinesSpec:
    return rp.pipelines(
        {
            "label": rp.pipeline("image-classification", model=model("vit-classifier"), top_k=1),
            "vector": rp.pipeline("image-feature-extraction", model=model("vit-features"), pool=False),
            "sentiment": rp.pipeline("text-classification", model=model("bert-classifier")),
        },
        workers={"num_cpus": 1},
    )


def test_specifications_over_a_dataset_share_a_worker(both: rp.PipelinesSpec) -> None:
    import ray.data

    pictures: list[Any] = [png(image(size=(20 + n, 30), seed=n)) for n in range(10)]
    pictures[4] = b"no picture"
    table = pa.table({"picture": pictures, "caption": [f"picture {n}" for n in range(10)]})
    rows = both(ray.data.from_arrow(table), image="picture", sentiment={"text": "caption"}).take_all()
    rows.sort(key=lambda row: row["caption"])
    assert list(rows[0]) == ["picture", "caption", "label", "vector", "sentiment", "error"]
    error = rows.pop(4)
    assert error["error"]["message"].startswith("label: image: ") and error["sentiment"] is None
    good = [picture for n, picture in enumerate(pictures) if n != 4]
    assert_close([row["label"] for row in rows], both.specs["label"].run(good))
    captions = [f"picture {n}" for n in range(10) if n != 4]
    assert_close([row["sentiment"] for row in rows], both.specs["sentiment"].run(captions))
    with pytest.raises(rp.ConfigError, match=r'label: inputs\.image: the dataset has no column "image"'):
        both(ray.data.from_arrow(table.rename_columns(["a", "b"])), text="b")


def test_data_of_this_process_comes_back_with_the_results_of_each(both: rp.PipelinesSpec) -> None:
    pictures: list[Any] = [image(size=(20 + n, 30), seed=n) for n in range(6)]
    items = [{"image": picture, "text": f"picture {n}"} for n, picture in enumerate(pictures)]
    expected = both.run(items)
    assert_close([row["label"] for row in expected if isinstance(row, dict)], both.specs["label"].run(pictures))
    assert_close(both.map(items, progress=False), expected)
    missing = both.map([items[0], {"image": pictures[1]}, items[2]], progress=False)
    assert isinstance(missing[1], rp.RowError) and missing[1].message.startswith("sentiment: text: is required")
    assert_close([missing[0], missing[2]], [expected[0], expected[2]])
    assert_close(list(both.map(iter(items), progress=False)), expected)

    # A frame of pictures has no Arrow type; one of their bytes has.
    captions = [item["text"] for item in items]
    inputs = {"image": "picture", "sentiment": {"text": "caption"}}
    for values in (pictures, [png(picture) for picture in pictures]):
        frame = pd.DataFrame({"n": range(6), "picture": values, "caption": captions})
        made = both.map(frame, progress=False, **inputs)
        assert list(made.columns) == ["n", "picture", "caption", "label", "vector", "sentiment", "error"]
        assert_close(made[list(both.specs)].to_dict("records"), expected)
    assert both.map(pa.table({"image": [b""], "text": [""]}).slice(0, 0), progress=False).column_names[2:] == [
        "label",
        "vector",
        "sentiment",
        "error",
    ]
