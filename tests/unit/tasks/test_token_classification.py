"""token-classification: what leaves the model of each token."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import ray_pipelines as rp
from ray_pipelines.engine.transfer import pack, packed_bytes

Model = Callable[[str], str]
TEXT = "Anna of Rome met Bob. " * 60


@pytest.mark.parametrize("strategy", ["simple", "first", "max", "average"])
def test_only_the_average_needs_the_scores_of_all_labels(strategy: str, model: Model) -> None:
    parameters = {"aggregation_strategy": strategy, "stride": 8}
    steps = rp.pipeline("token-classification", model("bert-ner"), device="cpu", **parameters)._runner().steps
    chunks = list(steps.preprocess(TEXT))
    outputs = [steps.forward(chunk) for chunk in chunks]
    num_tokens = chunks[0]["input_ids"].shape[1]
    assert len(chunks) > 5
    assert max(packed_bytes(pack(chunk)) for chunk in chunks[1:]) < 10 * num_tokens + 100
    if strategy == "average":
        assert outputs[0]["probabilities"].shape == (1, num_tokens, steps.pipe.model.config.num_labels)
    else:
        assert outputs[0]["labels"].shape == outputs[0]["scores"].shape == (1, num_tokens)
        assert "probabilities" not in outputs[0] and "logits" not in outputs[0]
        assert max(packed_bytes(pack(output)) for output in outputs[1:]) < 15 * num_tokens + 100


def test_scores_are_those_of_a_softmax_in_single_precision(model: Model) -> None:
    steps = rp.pipeline("token-classification", model("bert-ner"), device="cpu")._runner().steps
    (chunk,) = steps.preprocess("Anna of Rome met Bob.")
    output = steps.forward(chunk)
    with torch.no_grad():
        logits = steps.pipe.model(chunk["input_ids"]).logits
    scores, labels = logits.softmax(-1).max(-1)
    assert torch.equal(output["labels"], labels)
    assert torch.allclose(output["scores"], scores)
