"""Many items preprocessed at once: each is what its pipeline makes of it alone, and errors stay with their rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.utils import ModelOutput

import ray_pipelines as rp
from ray_pipelines.config import BatchConfig
from ray_pipelines.engine.runner import Runner
from ray_pipelines.engine.steps import Steps
from ray_pipelines.errors import RowError
from ray_pipelines.tasks import RowCall
from tests.cases import CASES, Case
from tests.closeness import assert_close

Model = Callable[[str], str]
TASKS = (
    "text-classification",
    "feature-extraction",
    "fill-mask",
    "token-classification",
    "image-classification",
    "image-feature-extraction",
)


def steps_of(case: Case, model: Model) -> Any:
    return rp.pipeline(case.task, model=model(case.model), device="cpu", **case.parameters)._runner().steps


@pytest.mark.parametrize("case", [case for case in CASES if case.task in TASKS], ids=lambda case: case.name)
def test_each_item_is_preprocessed_as_if_it_were_alone(case: Case, model: Model) -> None:
    steps = steps_of(case, model)
    assert steps.group_size > 1
    items = [steps.item_of_input(item) for item in case.items()] * 2
    for item, chunks in zip(items, steps.preprocess_many(items), strict=True):
        if chunks is None:
            continue
        for made, expected in zip(chunks, list(steps.preprocess(item)), strict=True):
            assert made.keys() == expected.keys()
            for name, value in expected.items():
                if isinstance(value, torch.Tensor):
                    assert made[name].dtype == value.dtype and torch.equal(made[name], value)
                else:
                    assert made[name] == value


def test_natural_texts_take_the_fast_path(model: Model) -> None:
    spec = rp.pipeline("text-classification", model=model("bert-classifier"), truncation=True, max_length=8)
    steps = spec._runner().steps
    made = steps.preprocess_many(["a b", {"text": "a", "text_pair": "b"}, "", "word " * 40])
    assert [len(chunks) for chunks in made] == [1, 1, 1, 1]
    assert steps.num_truncated == 1


def test_an_empty_second_text_is_none_whatever_its_place(model: Model) -> None:
    items = [{"text": "a b", "text_pair": "c"}, {"text": "a b", "text_pair": ""}, {"text": "a b", "text_pair": " "}]
    spec = rp.pipeline("text-classification", model=model("bert-classifier"))
    assert_close(spec.run(items), [spec.run([item])[0] for item in items])


def test_items_with_arguments_of_their_own_are_grouped_by_them(model: Model) -> None:
    steps = rp.pipeline("text-classification", model=model("bert-classifier"))._runner().steps
    cut = RowCall("a b c d e f", {"truncation": True, "max_length": 4})
    made = steps.preprocess_many(["a b c d e f", cut, RowError("decode", "MediaError", "broken"), cut])
    assert made[2] is None
    assert [chunks[0]["input_ids"].shape[1] for chunks in (made[1], made[3])] == [4, 4]
    assert made[0][0]["input_ids"].shape[1] > 4


def test_bad_rows_fail_alone_among_many(model: Model) -> None:
    spec = rp.pipeline("fill-mask", model=model("bert-mlm"), top_k=1)
    results = spec.run(["a [MASK]", "no mask", "b [MASK] c", None])
    assert [isinstance(result, RowError) for result in results] == [False, True, False, True]
    long = rp.pipeline("text-classification", model=model("bert-classifier")).run(["a", "word " * 5000, "b"])
    assert [getattr(result, "type", None) for result in long] == [None, "RowTooLarge", None]


def test_pictures_of_many_sizes_are_preprocessed_at_once(model: Model) -> None:
    spec = rp.pipeline("image-classification", model=model("vit-classifier"), device="cpu")
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    pictures = [Image.fromarray(pixels[: 20 + n, : 30 + 2 * n]) for n in range(20)]
    alone = [spec.run([picture])[0] for picture in pictures]
    together = spec.run(pictures)
    assert [result[0]["label"] for result in together] == [result[0]["label"] for result in alone]


def test_a_pipeline_with_its_own_preprocessing_keeps_it(model: Model) -> None:
    import transformers

    class Shouting(transformers.TextClassificationPipeline):
        def preprocess(self, inputs: str, **arguments: Any) -> Any:
            return super().preprocess("x y z" if inputs == "quiet" else inputs, **arguments)

    spec = rp.pipeline("text-classification", model=model("bert-classifier"), pipeline_class=Shouting)
    assert_close(spec.run(["a", "quiet"])[1], spec.run(["x y z"])[0])


def test_a_library_that_treats_many_items_otherwise_is_not_used(model: Model) -> None:
    spec = rp.pipeline("text-classification", model=model("bert-classifier"))
    good = spec._runner().steps
    wrong = good.preprocess_many(["z", "z"])
    task = dataclasses.replace(good.task, preprocess_many=lambda pipe, items, arguments: wrong)
    steps = Steps(good.pipe, task, good.parameters, good.limits)
    assert list(Runner(steps, BatchConfig()).run(["a b", "c"])) == spec.run(["a b", "c"])
    assert steps.group_size == 1


FINISHED = [case for case in CASES if case.task in ("text-classification", "image-classification")]


@pytest.mark.parametrize("top_k", [None, 1, 2, 100])
@pytest.mark.parametrize("function", [None, "softmax", "sigmoid", "none"])
@pytest.mark.parametrize("case", FINISHED, ids=lambda case: case.name)
def test_each_row_is_postprocessed_as_if_it_were_alone(
    case: Case, function: str | None, top_k: int | None, model: Model
) -> None:
    parameters = {name: value for name, value in (("top_k", top_k), ("function_to_apply", function)) if value}
    spec = rp.pipeline(case.task, model=model(case.model), device="cpu", **parameters)
    steps = spec._runner().steps
    count = steps.pipe.model.config.num_labels
    rows = [*torch.randn(40, 1, count, generator=torch.manual_seed(0)).unbind(), torch.zeros(1, count)]
    outputs = [[ModelOutput(logits=row)] for row in rows]
    assert_close(steps.postprocess_many(outputs), [steps.postprocess(own) for own in outputs], 1e-6)
    assert steps.can_finish_many


def test_rows_without_a_number_and_pipelines_of_ones_own_are_postprocessed_singly(model: Model) -> None:
    folder = model("bert-classifier")
    steps = rp.pipeline("text-classification", model=folder, device="cpu")._runner().steps
    outputs = [[ModelOutput(logits=torch.tensor([[1.0, value]]))] for value in (2.0, float("nan"), 0.0)]
    assert [result is None for result in steps.postprocess_many(outputs)] == [False, True, False]
    own = rp.pipeline("text-classification", model=folder, device="cpu", pipeline_class=Whispering)
    assert own.run(["a", "b"])[1][0]["label"].islower() and not own._runner().steps.can_finish_many


def test_a_library_that_postprocesses_otherwise_is_not_trusted(model: Model) -> None:
    steps = rp.pipeline("text-classification", model=model("bert-classifier"), device="cpu")._runner().steps
    steps.task = dataclasses.replace(steps.task, postprocess_many=lambda pipe, outputs, arguments: ["?"] * len(outputs))
    runner = Runner(steps, BatchConfig())
    assert all(result != "?" for result in runner.run(["a", "b", "c"])) and not steps.can_finish_many


class Whispering(transformers.TextClassificationPipeline):
    """A user's own pipeline."""

    def postprocess(self, *args: Any, **kwargs: Any) -> Any:
        return {**super().postprocess(*args, **kwargs), "label": "quiet"}
