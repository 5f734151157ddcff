"""Classes of the user's: parameters that only they know, and those that are registered with transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import transformers
from ray import cloudpickle
from transformers.pipelines import PIPELINE_REGISTRY

import ray_pipelines as rp

Model = Callable[[str], str]


class CountingPipeline(transformers.Pipeline):
    """Has a default of its own where transformers asks for what was given."""

    def _sanitize_parameters(self, times: int = 1) -> Any:
        return {}, {}, {"times": times}

    def preprocess(self, text: str) -> Any:
        return self.tokenizer(text, return_tensors="pt")

    def _forward(self, inputs: Any) -> Any:
        return {"input_ids": inputs["input_ids"]}

    def postprocess(self, outputs: Any, times: int) -> Any:
        return times * outputs["input_ids"].shape[1]


class LoudPipeline(transformers.TextClassificationPipeline):
    """A known task with a parameter more."""

    def _sanitize_parameters(self, is_loud: bool | None = None, **others: Any) -> Any:
        before, forward, after = super()._sanitize_parameters(**others)
        return before, forward, after if is_loud is None else {**after, "is_loud": is_loud}

    def postprocess(self, outputs: Any, is_loud: bool = False, **arguments: Any) -> Any:
        found = super().postprocess(outputs, **arguments)
        return [{**one, "label": one["label"].upper()} for one in found] if is_loud else found


class ConstructedPipeline(CountingPipeline):
    """What its constructor takes is no part of a call."""

    def __init__(self, *args: Any, suffix: str = "", **others: Any) -> None:
        super().__init__(*args, **others)
        self.suffix = suffix

    def postprocess(self, outputs: Any, times: int) -> Any:
        return f"{super().postprocess(outputs, times)}{self.suffix}"


def test_a_default_of_a_class_never_stands_in_place_of_what_was_given(model: Model) -> None:
    spec = rp.pipeline("count", model=model("bert-classifier"), pipeline_class=CountingPipeline, times=10)
    assert spec.run(["a", "a a"]) == [30, 40]
    constructed = {"pipeline_class": ConstructedPipeline, "times": 10, "suffix": "!"}
    assert rp.pipeline("count", model=model("bert-classifier"), **constructed).run(["a"]) == ["30!"]


def test_a_class_for_a_known_task_may_take_more_parameters(model: Model) -> None:
    plain = rp.pipeline("text-classification", model=model("bert-classifier"), top_k=2).run(["a", "b c"])
    loud = rp.pipeline(
        "text-classification", model=model("bert-classifier"), pipeline_class=LoudPipeline, is_loud=True, top_k=2
    ).run(["a", "b c"])
    assert loud == [[{**label, "label": label["label"].upper()} for label in row] for row in plain]


def test_parameters_that_the_task_has_are_still_checked(model: Model) -> None:
    with pytest.raises(rp.ConfigError, match=r"parameters\.top_k: expected a whole number"):
        rp.pipeline("text-classification", model=model("bert-classifier"), pipeline_class=LoudPipeline, top_k="x")
    with pytest.raises(rp.ConfigError, match=r"parameters\.topk: unknown name"):
        rp.pipeline("text-classification", model=model("bert-classifier"), trust_remote_code=True, topk=3)


def test_a_pipeline_that_is_registered_with_transformers_goes_along_to_other_processes(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PIPELINE_REGISTRY, "supported_tasks", {**PIPELINE_REGISTRY.supported_tasks})
    PIPELINE_REGISTRY.register_pipeline("registered", CountingPipeline, pt_model=transformers.AutoModel)
    spec = cloudpickle.dumps(rp.pipeline("registered", model=model("bert-classifier"), times=10))
    del PIPELINE_REGISTRY.supported_tasks["registered"]
    assert cloudpickle.loads(spec).run(["a", "a a"]) == [30, 40]
    assert PIPELINE_REGISTRY.supported_tasks["registered"]["pt"] == (transformers.AutoModel,)
