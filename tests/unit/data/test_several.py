"""Several tasks in one worker: what is shared between them, and what is not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import fsspec
import pyarrow as pa
import pytest

import ray_pipelines as rp
from ray_pipelines import media
from ray_pipelines.data import several
from ray_pipelines.data.counting import counters_of
from ray_pipelines.data.several import SeveralSetup, SeveralWorker
from ray_pipelines.data.workers import PipelineWorker
from tests.cases.media import TEXTS, image, png
from tests.closeness import assert_close
from tests.unit.data.test_workers import setup_of

Model = Callable[[str], str]
NUM_PICTURES = 9


@pytest.fixture(scope="module")
def pictures() -> pa.Table:
    rows: list[Any] = [png(image(size=(20 + n, 30), seed=n)) for n in range(NUM_PICTURES)]
    rows[2] = b"no picture"
    return pa.table({"my_image": rows, "text": [f"picture {n}" for n in range(NUM_PICTURES)]})


@pytest.fixture(scope="module")
def setup(model: Model) -> SeveralSetup:
    specs = {
        "label": rp.pipeline("image-classification", model=model("vit-classifier"), top_k=2),
        "vector": rp.pipeline("image-feature-extraction", model=model("vit-features")),
    }
    return SeveralSetup({name: setup_of(spec, ["my_image"]) for name, spec in specs.items()}, is_counted=True)


@pytest.mark.parametrize("portion_bytes", [several.PORTION_BYTES, 5000])
def test_each_value_is_decoded_once_and_columns_are_those_of_each_task_alone(
    portion_bytes: int, setup: SeveralSetup, pictures: pa.Table
) -> None:
    worker = SeveralWorker(setup)
    with (
        patch.object(media, "decode", wraps=media.decode) as decode,
        patch.object(several, "PORTION_BYTES", portion_bytes),
    ):
        output = worker(pictures)
    # The one that fails is tried by each task that wants it, as nothing of it is kept.
    assert decode.call_count in (NUM_PICTURES, NUM_PICTURES + 1)
    for name, part in setup.parts.items():
        alone = PipelineWorker(dataclasses.replace(part, output_column=name))(pictures)
        assert_close(output[name].to_pylist(), alone[name].to_pylist())
    (error,) = [error for error in output["error"].to_pylist() if error]
    assert (error["stage"], error["type"]) == ("decode", "MediaError") and error["message"].startswith("label: image")
    counters = counters_of(output)
    assert counters.parts.keys() == setup.parts.keys() and counters.decode_s > 0
    assert counters.cost == sum(part.cost for part in counters.parts.values()) > 0
    assert counters.num_forwards == sum(part.num_forwards for part in counters.parts.values())


def test_steps_are_noted_for_the_row_that_they_are_of(setup: SeveralSetup, pictures: pa.Table) -> None:
    worker = SeveralWorker(setup)
    noted: list[tuple[str, tuple[int, ...]]] = []

    def run(stage: str, rows: Any, function: Callable[[], Any]) -> Any:
        noted.append((stage, tuple(rows)))
        return function()

    with patch.object(worker._watch, "run", run), patch.object(several, "PORTION_BYTES", 5000):
        worker(pictures)
    decoded = [rows for stage, rows in noted if stage == "decode"]
    assert decoded == [(n,) for n in range(NUM_PICTURES) for _ in setup.parts]
    forwards = [rows for stage, rows in noted if stage == "forward"]
    assert {row for rows in forwards for row in rows} == {n for n in range(NUM_PICTURES) if n != 2}
    assert max(map(len, forwards)) < NUM_PICTURES - 1


def test_a_result_that_does_not_fit_its_column_fails_the_row(model: Model) -> None:
    specs = {
        "first": rp.pipeline("text-classification", model=model("bert-classifier")),
        "second": rp.pipeline("feature-extraction", model=model("bert-features"), pooling="mean"),
    }
    parts = {name: setup_of(spec, ["my_text"]) for name, spec in specs.items()}
    parts["second"] = dataclasses.replace(parts["second"], result_type=pa.list_(pa.binary()))
    output = SeveralWorker(SeveralSetup(parts))(pa.table({"my_text": TEXTS[:3]}))
    assert output.column_names == ["my_text", "first", "second", "error"]
    assert output["first"].null_count == output["second"].null_count == 3
    assert all(error["message"].startswith("second: ") for error in output["error"].to_pylist())


def test_several_in_this_process(model: Model) -> None:
    both = rp.pipelines(
        {
            "sentiment": rp.pipeline("text-classification", model=model("bert-classifier")),
            "vector": rp.pipeline("feature-extraction", model=model("bert-features"), pooling="mean"),
        }
    )
    first, failed, second = both.run([TEXTS[0], None, TEXTS[1]])
    assert isinstance(failed, rp.RowError) and failed.message.startswith("sentiment: text: expected a value")
    assert isinstance(first, dict) and isinstance(second, dict)
    assert_close([first["sentiment"], second["sentiment"]], both.specs["sentiment"].run(TEXTS[:2]))
    assert_close(next(both.run(iter(TEXTS))), first)


def test_each_task_takes_its_own_of_a_dictionary(model: Model) -> None:
    label = rp.pipeline("image-classification", model=model("vit-classifier"), top_k=1)
    sentiment = rp.pipeline("text-classification", model=model("bert-classifier"))
    both = rp.pipelines({"label": label, "sentiment": sentiment})
    picture = image(size=(20, 30), seed=1)
    found, failed = both.run([{"image": picture, "text": TEXTS[0]}, {"image": picture}])
    assert isinstance(found, dict)
    assert_close([found["label"], found["sentiment"]], [label.run([picture])[0], sentiment.run(TEXTS[:1])[0]])
    assert (
        isinstance(failed, rp.RowError)
        and failed.message == "sentiment: text: is required by text-classification; the row does not have it."
    )


def test_a_pair_is_the_inputs_of_tasks_that_take_pairs(model: Model) -> None:
    matches = rp.pipeline("keypoint-matching", model=model("superglue"))
    both = rp.pipelines(
        {"all": matches, "best": rp.pipeline("keypoint-matching", model=model("superglue"), threshold=0.5)}
    )
    pair = [image(size=(40, 30), seed=1), image(size=(40, 30), seed=2)]
    (found,) = both.run([pair])
    assert isinstance(found, dict)
    assert_close(found["all"], matches.run([pair])[0])


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        ("serve://app", "workers.serve: excludes several tasks"),
        ({"stages": "split"}, "workers.stages: excludes several tasks"),
        ({"chunking": "groupby"}, "workers.chunking: excludes several tasks"),
        ({"concurency": 2}, 'workers.concurency: unknown name. Did you mean "concurrency"?'),
    ],
)
def test_what_cannot_share_a_worker_is_refused(workers: Any, expected: str) -> None:
    spec = rp.pipeline("text-classification", model="org/model")
    workers = {"serve": workers} if isinstance(workers, str) else workers
    with pytest.raises(rp.ConfigError) as error:
        rp.pipelines({"a": spec}, workers=workers)
    assert error.value.problems[0].startswith(expected)
    with pytest.raises(rp.ConfigError, match=r"tasks\.b: has workers of its own"):
        rp.pipelines({"a": spec, "b": rp.pipeline("fill-mask", model="org/model", num_gpus=1)})


def test_an_address_is_opened_for_the_task_that_takes_a_picture_and_a_text_for_the_other(
    model: Model, setup: SeveralSetup
) -> None:
    address = "memory://several/a.png"
    with fsspec.open(address, "wb") as file:
        file.write(png(image()))
    classifier = rp.pipeline("text-classification", model=model("bert-classifier"))
    kind = dataclasses.replace(setup_of(classifier, []), inputs={"text": "my_image"})
    both = SeveralSetup({"label": setup.parts["label"], "kind": kind})
    (row,) = SeveralWorker(both)(pa.table({"my_image": [address]})).to_pylist()
    assert row["error"] is None and len(row["label"]) == 2
    (alone,) = PipelineWorker(kind)(pa.table({"my_image": [address]}))["prediction"].to_pylist()
    assert_close(row["kind"], alone)
