"""How many tokens a pipeline generates, as its settings and its model's say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

import ray_pipelines as rp
from ray_pipelines.engine.lengths import new_tokens
from ray_pipelines.tasks import validate_parameters
from tests.cases.media import TEXTS

Model = Callable[[str], str]


@pytest.mark.parametrize(
    "task, name, parameters, expected",
    [
        ("text-generation", "gpt2-lm", {"max_new_tokens": 5}, 5),
        ("text-generation", "gpt2-lm", {"max_length": 12}, 12),
        ("text-generation", "gpt2-lm", {}, 256),
        ("automatic-speech-recognition", "whisper", {"generate_kwargs": {"max_new_tokens": 7}}, 7),
        ("image-text-to-text", "llava", {"max_new_tokens": 6}, 6),
        ("text2text-generation", "t5-text2text", {"max_new_tokens": 4}, 4),
        ("automatic-speech-recognition", "wav2vec2-ctc", {}, 0),
        ("text-classification", "bert-classifier", {}, 0),
    ],
)
def test_new_tokens_are_those_of_the_settings(
    task: str, name: str, parameters: Mapping[str, Any], expected: int, model: Model
) -> None:
    steps = rp.pipeline(task, model=model(name), **parameters)._runner().steps
    assert new_tokens(steps.pipe) == steps.extra_cost == expected


def test_those_of_a_call_go_over_those_of_the_pipeline(model: Model) -> None:
    spec = rp.pipeline("text-generation", model=model("gpt2-lm"), max_new_tokens=5)
    runner = spec._runner()
    of_call = runner.with_parameters(validate_parameters(spec.task, {"max_new_tokens": 9}))
    assert (runner.steps.extra_cost, of_call.steps.extra_cost) == (5, 9)


def test_a_batch_is_full_by_its_prompts_and_what_is_generated(model: Model) -> None:
    spec = rp.pipeline(
        "text-generation", model=model("gpt2-lm"), max_new_tokens=8, do_sample=False, batch={"budget": 64}
    )
    counters = spec._runner().counters
    list(spec.run([TEXTS[0][:9]] * 12))
    tokens = counters.cost // counters.num_chunks
    rows = 64 // (tokens + 8)
    assert counters.num_forwards == -(-12 // rows)
