"""Random numbers depend on the seed and the row alone: not on the batch, the order or what ran before."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import ray_pipelines as rp
from tests.cases.dropped_vision import recorded_items

Model = Callable[[str], str]
PROMPTS = ["Hello", "The quick brown", "a b c", "Once upon a time", "Hello"]


def generate(model: Model, prompts: list[str], **settings: object) -> list[object]:
    spec = rp.pipeline("text-generation", model=model("gpt2-lm"), do_sample=True, max_new_tokens=12, **settings)
    return spec.run(prompts)


def test_sampling_does_not_depend_on_batch_or_order(model: Model) -> None:
    straight = generate(model, PROMPTS)
    assert generate(model, PROMPTS[::-1], batch={"max_size": 2, "window_rows": 2})[::-1] == straight
    assert generate(model, PROMPTS[2:3]) == straight[2:3]
    assert straight[0] == straight[4]


def test_another_seed_samples_otherwise(model: Model) -> None:
    assert generate(model, PROMPTS, seed=1) != generate(model, PROMPTS, seed=2)


def test_seeding_leaves_the_generators_of_the_process_alone(model: Model) -> None:
    import random

    import numpy as np
    import torch

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), float(torch.rand(1))

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    expected = draw()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    generate(model, PROMPTS[:1])
    assert draw() == expected


@pytest.mark.parametrize(
    ("case", "settings"),
    [
        ("vit-gpt2", {"do_sample": True}),
        ("blip-vqa", {"do_sample": True, "temperature": 3.0}),
        ("git-captions", {"generate_kwargs": {"do_sample": True}}),
    ],
)
def test_captions_and_answers_are_sampled_by_row(case: str, settings: dict[str, object], model: Model) -> None:
    task = "visual-question-answering" if "vqa" in case else "image-to-text"
    items = recorded_items(case)
    together = rp.pipeline(task, model=model(case), device="cpu", batch={"max_size": 8}, **settings).run(items)
    assert rp.pipeline(task, model=model(case), device="cpu", **settings).run(items[2:]) == together[2:]
