from __future__ import annotations

from collections.abc import Callable

import pytest
import transformers

import ray_pipelines as rp
from tests.cases.vision import picture, pictures
from tests.closeness import assert_close

Model = Callable[[str], str]
TASK = "zero-shot-image-classification"


def test_labels_of_a_row_go_before_the_parameter(model: Model) -> None:
    spec = rp.pipeline(TASK, model=model("clip"), device="cpu", candidate_labels="cat, dog")
    own, default = spec.run([{"image": picture((30, 30)), "candidate_labels": " sun , moon,"}, picture((30, 30))])
    assert {entry["label"] for entry in own} == {"sun", "moon"}
    assert {entry["label"] for entry in default} == {"cat", "dog"}


def test_rows_of_one_forward_are_scored_by_their_own_labels(model: Model) -> None:
    """In transformers 5.23 a batch is scored by the labels of its first row."""
    folder = model("clip")
    rows = [
        {"image": image, "candidate_labels": labels}
        for image, labels in zip(pictures(), (["fox", "dog"], ["dog", "film"], ["film", "fox"]), strict=False)
    ]
    spec = rp.pipeline(TASK, model=folder, device="cpu")
    results = spec.run(rows)
    assert spec._runner().counters.num_forwards == 1
    pipe = transformers.pipeline(TASK, model=folder, device="cpu")
    assert_close(results, [pipe(row["image"], candidate_labels=row["candidate_labels"]) for row in rows])
    steps = [pipe.preprocess(row["image"], candidate_labels=row["candidate_labels"]) for row in rows]
    first = pipe.model(**steps[0]["text_inputs"][0], pixel_values=steps[1]["pixel_values"]).logits_per_image[0]
    second = pipe.model(**steps[1]["text_inputs"][0], pixel_values=steps[1]["pixel_values"]).logits_per_image[0]
    assert float((first - second).detach().abs().max()) > 0.1


def test_each_distinct_label_is_encoded_once_per_forward(model: Model) -> None:
    spec = rp.pipeline(TASK, model=model("clip"), device="cpu", candidate_labels=["cat", "dog", "cat"])
    seen: list[int] = []
    text_model = spec._runner().steps.pipe.model.text_model
    text_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    results = spec.run(pictures())
    assert set(seen) == {2}  # also in the forward by which the first batch is checked
    assert all(len(result) == 3 for result in results)


def test_tokenizer_arguments_are_honoured_where_transformers_ignores_them(model: Model) -> None:
    folder = model("clip")
    long = ["a very long label " * 20, "dog"]
    pipe = transformers.pipeline(TASK, model=folder, device="cpu")
    with pytest.raises(ValueError, match="position"):
        pipe(picture((30, 30)), candidate_labels=long, tokenizer_kwargs={"truncation": True})
    spec = rp.pipeline(TASK, model=folder, device="cpu", candidate_labels=long, tokenizer_kwargs={"truncation": True})
    (result,) = spec.run([picture((30, 30))])
    assert len(result) == 2


def test_a_row_without_labels_fails_alone(model: Model) -> None:
    spec = rp.pipeline(TASK, model=model("clip"), device="cpu")
    rows = [
        picture((30, 30)),
        {"image": picture((30, 30)), "candidate_labels": ["cat", 3]},
        {"image": picture((30, 30)), "candidate_labels": ["cat", "dog"]},
    ]
    missing, wrong, right = spec.run(rows)
    assert "expected labels in the row or as a parameter" in missing.message
    assert "expected strings" in wrong.message
    assert len(right) == 2


@pytest.mark.parametrize(
    ("parameters", "message"),
    (
        ({"candidate_labels": []}, "at least one label"),
        ({"candidate_labels": " , "}, "at least one label"),
        ({"candidate_labels": ["a"], "hypothesis_template": "no place"}, "where the label goes"),
    ),
)
def test_wrong_parameters_are_refused(parameters: dict, message: str) -> None:
    with pytest.raises(rp.ConfigError, match=message):
        rp.pipeline(TASK, model="org/model", **parameters)
