"""A second model drafts the tokens that the first generates, which changes nothing but the time it takes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import ray_pipelines as rp
from tests.cases.media import TEXTS

Model = Callable[[str], str]
GREEDY = {"do_sample": False, "max_new_tokens": 12}


@pytest.mark.parametrize(
    ("task", "name", "assistant"),
    [
        ("text-generation", "llama-chat", "gpt2-lm"),
        ("text2text-generation", "t5-text2text", "t5-text2text"),
        ("summarization", "bart-text2text", "bart-text2text"),
    ],
)
def test_results_with_an_assistant_are_those_without(task: str, name: str, assistant: str, model: Model) -> None:
    texts = [text[:40] for text in TEXTS]
    alone = rp.pipeline(task, model(name), device="cpu", num_beams=1, **GREEDY)
    assisted = rp.pipeline(task, model(name), device="cpu", assistant_model=model(assistant), num_beams=1, **GREEDY)
    assert assisted.run(texts, on_error="raise") == alone.run(texts)
    steps = assisted._runner().steps
    assert steps.pipe.assistant_model is not None
    assert not steps.can_batch


def test_assistant_is_staged_and_pinned_like_the_model() -> None:
    from ray_pipelines.config import ModelConfig
    from ray_pipelines.engine.hub import resolve_model

    with pytest.raises(rp.ConfigError, match="there is no folder"):
        resolve_model("text-generation", ModelConfig(name="/", assistant_model="./assistant"))


def test_assistant_of_a_task_that_generates_nothing_is_refused() -> None:
    with pytest.raises(rp.ConfigError, match=r"model\.assistant_model: has no use in text-classification"):
        rp.pipeline("text-classification", "org/model", assistant_model="org/small")


@pytest.mark.parametrize("task", ["text-generation", "any-to-any"])
@pytest.mark.parametrize(("value", "name"), [(0, "return_tensors"), ("new_text", "return_full_text")])
def test_return_type_means_one_of_the_other_parameters(task: str, value: object, name: str) -> None:
    spec = rp.pipeline(task, "org/model", return_type=value)
    assert dict(spec.parameters) == {name: name == "return_tensors"}


def test_return_type_of_texts_from_texts() -> None:
    assert rp.pipeline("summarization", "org/model", return_type="TENSORS").parameters == {"return_tensors": True}
    assert rp.pipeline("translation_en_to_fr", "org/model", return_text=False).parameters == {"return_tensors": True}
    with pytest.raises(rp.ConfigError, match="return_type: expected one of tensors, text; got 'full_text'"):
        rp.pipeline("summarization", "org/model", return_type="full_text")
    with pytest.raises(rp.ConfigError, match="return_type: means return_tensors=True, which is given as False"):
        rp.pipeline("summarization", "org/model", return_type=0, return_tensors=False)
