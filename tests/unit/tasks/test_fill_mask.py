"""fill-mask: how many candidates there are."""

from __future__ import annotations

from collections.abc import Callable

import ray_pipelines as rp


def test_more_candidates_than_there_are_tokens_are_all_tokens(model: Callable[[str], str]) -> None:
    steps = rp.pipeline("fill-mask", model("bert-mlm"), device="cpu", top_k=10**6)._runner().steps
    (found,) = steps.postprocess([steps.forward(chunk) for chunk in steps.preprocess("A [MASK] text.")])
    assert len({one["token"] for one in found}) == len(found) == steps.pipe.model.config.vocab_size
