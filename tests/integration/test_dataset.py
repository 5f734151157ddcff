"""A specification over a Ray dataset gives what it gives in this process."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import transformers

import ray_pipelines as rp
from ray_pipelines import tasks
from ray_pipelines.arrow import ERROR_TYPE, results_to_arrow
from tests.cases.media import TEXTS, image, images, png, sounds
from tests.closeness import assert_close

pytestmark = pytest.mark.usefixtures("ray_cluster")
Model = Callable[[str], str]

WAYS = ("fused", "split")


def text_rows() -> list[Any]:
    return [TEXTS[index % len(TEXTS)][: 5 + index % 40] for index in range(60)]


def masked_rows() -> list[Any]:
    return [f"{text[:30]} [MASK] end" for text in text_rows()]


def image_rows() -> list[Any]:
    return [png(image(size=(8 + index % 30, 40 - index % 17), seed=index)) for index in range(24)]


def sound_rows() -> list[Any]:
    return [sound.tolist() for sound in sounds()]


TASKS = {
    "text-classification": ("bert-classifier", "text", text_rows, {"top_k": 2}),
    "token-classification": ("bert-ner", "text", text_rows, {"aggregation_strategy": "simple", "stride": 4}),
    "feature-extraction": ("bert-features", "text", text_rows, {"pooling": "mean", "normalize": True}),
    "fill-mask": ("bert-mlm", "text", masked_rows, {"top_k": 2}),
    "image-classification": ("vit-classifier", "image", image_rows, {"top_k": 2}),
    "audio-classification": ("wav2vec2-classifier-mask", "audio", sound_rows, {"top_k": 2}),
}


@pytest.mark.parametrize(
    ("task", "stages"),
    [
        *itertools.product(TASKS, ["fused"]),
        *itertools.product(("token-classification", "image-classification"), ["split"]),
    ],
)
def test_dataset_equals_run(task: str, stages: str, model: Model) -> None:
    import ray

    name, field, make_rows, parameters = TASKS[task]
    rows = make_rows()
    spec = rp.pipeline(task, model=model(name), num_cpus=1, stages=stages, batch={"window_rows": 16}, **parameters)
    table = pa.table({"id": range(len(rows)), "value": rows})
    dataset = spec(ray.data.from_arrow(table).repartition(3), **{field: "value"})
    output = pa.concat_tables(ray.get(dataset.to_arrow_refs())).sort_by("id")
    assert output.column_names == ["id", "value", "prediction", "error"]
    result_type = spec.task.result_type(tasks.validate_parameters(spec.task, parameters))
    assert output.schema.field("prediction").type == result_type
    assert output.schema.field("error").type == ERROR_TYPE
    assert output["error"].null_count == len(rows)
    expected = results_to_arrow(spec.run(rows), result_type)[0].to_pylist()
    assert_close(output["prediction"].to_pylist(), expected)
    assert output.select(["id", "value"]).equals(table)


@pytest.mark.parametrize("stages", WAYS)
def test_bad_rows_fail_alone(stages: str, model: Model) -> None:
    import ray

    rows = [*image_rows()[:5], b"not an image", None, png(image())[:60], *image_rows()[5:8]]
    spec = rp.pipeline("image-classification", model=model("vit-classifier"), num_cpus=1, stages=stages)
    table = pa.table({"image": pa.array(rows, type=pa.binary())})
    output = spec(ray.data.from_arrow(table)).take_all()
    failed = [index for index, row in enumerate(output) if row["error"] is not None]
    assert failed == [5, 6, 7]
    assert [row["error"]["type"] for row in output if row["error"]] == ["MediaError", "InvalidInput", "MediaError"]
    assert all(row["error"]["stage"] == "decode" for row in output if row["error"])
    assert all((row["prediction"] is None) == (row["error"] is not None) for row in output)


def test_wrong_typed_value_among_python_objects_fails_alone(model: Model) -> None:
    import ray

    spec = rp.pipeline("text-classification", model=model("bert-classifier"), num_cpus=1)
    rows = [{"text": value} for value in ["a", 5, None, "b", {"a": 1}]]
    dataset = ray.data.from_items(rows, override_num_blocks=1)
    output = spec(dataset).take_all()
    assert [row["error"] is not None for row in output] == [False, True, True, False, True]
    assert output[1]["error"]["message"] == "text: expected a string; got int."


def test_block_of_failures_has_the_same_types_as_any_other(model: Model) -> None:
    import ray

    spec = rp.pipeline("text-classification", model=model("bert-classifier"), num_cpus=1)
    dataset = spec(ray.data.from_items([{"text": None}, {"text": None}]))
    (block,) = [table for table in ray.get(dataset.to_arrow_refs()) if table.num_rows]
    assert block.schema.field("prediction").type == spec.task.result_type(None)
    assert block["prediction"].null_count == 2


def test_objects_in_place_of_names_reach_the_workers(model: Model) -> None:
    import ray
    import transformers

    folder = model("bert-classifier")
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    spec = rp.pipeline("text-classification", model=loaded, tokenizer=tokenizer, num_cpus=1)
    output = spec(ray.data.from_items([{"text": text} for text in TEXTS])).take_all()
    by_name = rp.pipeline("text-classification", model=folder).run(TEXTS)
    assert_close([row["prediction"] for row in output], by_name)


def test_images_as_arrays_structs_and_paths(model: Model, tmp_path: Any) -> None:
    import ray

    picture = image()
    (tmp_path / "a.png").write_bytes(png(picture))
    spec = rp.pipeline("image-classification", model=model("vit-classifier"), num_cpus=1)
    (expected,) = spec.run([picture])
    tables = {
        "struct": pa.table({"image": [{"bytes": png(picture), "path": None}]}),
        "path": pa.table({"image": [str(tmp_path / "a.png")]}),
        "struct path": pa.table({"image": [{"bytes": None, "path": str(tmp_path / "a.png")}]}),
    }
    datasets = {name: ray.data.from_arrow(table) for name, table in tables.items()}
    datasets["tensor"] = ray.data.from_numpy(np.asarray(picture)[None]).rename_columns({"data": "image"})
    for name, dataset in datasets.items():
        (row,) = spec(dataset).take_all()
        assert row["error"] is None, (name, row["error"])
        assert_close(row["prediction"], expected)


def test_sampling_rate_column_is_honoured(model: Model) -> None:
    import ray

    spec = rp.pipeline("audio-classification", model=model("wav2vec2-classifier-mask"), num_cpus=1)
    sound = sounds()[0]
    table = pa.table({"samples": [sound.tolist()], "rate": [8000]})
    (row,) = spec(ray.data.from_arrow(table), audio="samples", sampling_rate="rate").take_all()
    (expected,) = spec.run([{"array": sound, "sampling_rate": 8000}])
    assert_close(row["prediction"], expected)


def test_missing_column_is_refused_with_the_nearest(model: Model) -> None:
    import ray

    spec = rp.pipeline("text-classification", model=model("bert-classifier"))
    with pytest.raises(rp.ConfigError, match=r'no column "reviw"\. Did you mean "review"'):
        spec(ray.data.from_items([{"review": "a"}]), text="reviw")


def test_column_that_would_be_overwritten_is_refused(model: Model) -> None:
    import ray

    spec = rp.pipeline("text-classification", model=model("bert-classifier"))
    with pytest.raises(rp.ConfigError, match='already has a column "prediction"'):
        spec(ray.data.from_items([{"text": "a", "prediction": 1}]))


def test_plan_that_would_hang_is_refused_with_the_arithmetic(model: Model) -> None:
    import ray

    dataset = ray.data.from_items([{"text": "a"}])
    with pytest.raises(rp.ResourceError, match="1 x 4 CPUs for workers \\+ 1 to read and write = 5 CPUs"):
        rp.pipeline("text-classification", model=model("bert-classifier"), num_cpus=4)(dataset)
    with pytest.raises(rp.ResourceError, match="1 GPUs each"):
        rp.pipeline("text-classification", model=model("bert-classifier"), num_gpus=1)(dataset)


def test_model_that_cannot_be_loaded_ends_with_its_reason(model: Model) -> None:
    import ray

    spec = rp.pipeline("fill-mask", model=model("vit-classifier"), num_cpus=1)
    with pytest.raises(Exception, match="cannot be loaded for fill-mask"):
        spec(ray.data.from_items([{"text": "a"}])).take_all()


class TellingPipeline(transformers.TextClassificationPipeline):
    """Says how its process is set up."""

    def postprocess(self, *args: Any, **kwargs: Any) -> Any:
        import huggingface_hub
        import torch

        return [{"label": f"{torch.get_num_threads()} {huggingface_hub.constants.HF_HUB_OFFLINE}", "score": 1.0}]


@pytest.mark.parametrize(("settings", "num_threads"), [({"num_cpus": 2}, 2), ({}, 4)])
def test_worker_has_the_threads_that_it_was_given_and_is_offline(
    settings: dict[str, int], num_threads: int, model: Model
) -> None:
    import ray

    spec = rp.pipeline(
        "text-classification", model=model("bert-classifier"), pipeline_class=TellingPipeline, **settings
    )
    (row,) = spec(ray.data.from_items([{"text": "a"}])).take_all()
    assert row["prediction"][0]["label"] == f"{num_threads} True"


def test_dataset_is_lazy_and_streams(model: Model) -> None:
    import ray

    spec = rp.pipeline("text-classification", model=model("bert-classifier"), num_cpus=1, batch={"window_rows": 10})
    dataset = spec(ray.data.range(100_000, override_num_blocks=400).map(lambda row: {"text": f"row {row['id']}"}))
    assert len(dataset.take(5)) == 5


def test_more_images_modes(model: Model) -> None:
    import ray

    spec = rp.pipeline("image-classification", model=model("vit-classifier"), num_cpus=1)
    output = spec(ray.data.from_items([{"image": png(picture)} for picture in images() if picture.mode != "CMYK"]))
    expected = spec.run([picture for picture in images() if picture.mode != "CMYK"])
    assert_close([row["prediction"] for row in output.take_all()], expected)


def test_labels_for_all_rows_and_labels_per_row(model: Model) -> None:
    import ray

    spec = rp.pipeline("zero-shot-classification", model=model("bert-nli"), num_cpus=1)
    texts, labels = ["I love it", "no way"], [["good", "bad"], ["up", "down", "left"]]
    table = pa.table({"text": texts, "labels": labels})
    per_row = spec(ray.data.from_arrow(table), text="text", candidate_labels="labels").take_all()
    items = [{"text": text, "candidate_labels": names} for text, names in zip(texts, labels, strict=True)]
    assert_close([row["prediction"] for row in per_row], spec.run(items))
    for constant in (["good", "bad"], {"constant": "good, bad"}):
        for_all = spec(ray.data.from_arrow(table), text="text", candidate_labels=constant).take_all()
        same = [{"text": text, "candidate_labels": ["good", "bad"]} for text in texts]
        assert_close([row["prediction"] for row in for_all], spec.run(same))
