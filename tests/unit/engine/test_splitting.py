from __future__ import annotations

import pytest
import torch
from transformers.utils import ModelOutput

from ray_pipelines.engine.batching import Padding, split_outputs
from ray_pipelines.engine.transfer import pack, unpack


def test_outputs_without_a_row_per_input_are_not_shared_out() -> None:
    """Two images that the processor cut into two patches each have four rows, and nobody knows whose they are."""
    outputs = ModelOutput(logits=torch.zeros(4, 3), target_size=[[(1, 2)], [(3, 4)]])
    with pytest.raises(ValueError, match="one row for each of 2 inputs"):
        split_outputs(outputs, [None, None], lambda name: False, Padding({}))


def test_scalars_beside_rows_are_handed_to_everybody() -> None:
    outputs = {"loss": torch.tensor(1.0), "logits": torch.zeros(2, 3)}
    parts = split_outputs(outputs, [None, None], lambda name: False, Padding({}))
    assert [part["logits"].shape for part in parts] == [(1, 3), (1, 3)]


def test_model_outputs_keep_names_and_order_between_stages() -> None:
    output = unpack(pack(ModelOutput(last_hidden_state=torch.ones(1, 2), pooler_output=torch.zeros(1, 3))))
    assert isinstance(output, ModelOutput)
    assert torch.equal(output.pooler_output, torch.zeros(1, 3)) and torch.equal(output[0], torch.ones(1, 2))
    assert type(unpack(pack({"a": torch.ones(1)}))) is dict
