"""Batches: every chunk in exactly one, and padding that can be undone."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils import ModelOutput

from ray_pipelines.engine.batching import Padding, collate, plan_batches, signature, split_outputs

COSTS = st.lists(st.integers(0, 500), max_size=80)
PADDING = Padding({"input_ids": 9, "attention_mask": 0})
LEFT = Padding({"input_ids": 9, "attention_mask": 0}, left=True)


@given(COSTS, st.integers(1, 20), st.none() | st.integers(1, 2000), st.integers(1, 3))
def test_every_chunk_is_in_exactly_one_batch_and_none_over_its_limits(
    costs: list[int], max_size: int, budget: int | None, num_groups: int
) -> None:
    groups = [index % num_groups for index in range(len(costs))]
    batches = plan_batches(costs, max_size=max_size, budget=budget, groups=groups)
    assert sorted(index for batch in batches for index in batch) == list(range(len(costs)))
    for batch in batches:
        assert 1 <= len(batch) <= max_size
        assert len({groups[index] for index in batch}) == 1
        padded_cost = max(costs[index] for index in batch) * len(batch)
        assert budget is None or len(batch) == 1 or padded_cost <= budget
        own_cost = sum(costs[index] for index in batch)
        assert padded_cost <= max(1.5 * own_cost, own_cost + (budget or 0) / 16), "padding costs more than a forward"


def test_a_jump_of_costs_ends_a_batch_unless_its_padding_is_next_to_nothing() -> None:
    assert plan_batches([2, 2, 2, 9], max_size=4, budget=1024) == [[0, 1, 2, 3]]
    assert plan_batches([2, 2, 2, 90], max_size=4, budget=1024) == [[0, 1, 2], [3]]
    assert plan_batches([2, 2, 2, 9], max_size=4, budget=36) == [[0, 1, 2], [3]]


@given(COSTS, st.integers(1, 20))
def test_plan_depends_on_its_arguments_alone(costs: list[int], max_size: int) -> None:
    assert plan_batches(costs, max_size=max_size) == plan_batches(list(costs), max_size=max_size)


def chunk(length: int) -> dict[str, Any]:
    ids = torch.arange(1, length + 1)[None]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "sentence": f"of {length}"}


@given(st.lists(st.integers(1, 12), min_size=2, max_size=6), st.sampled_from([PADDING, LEFT]))
def test_split_undoes_collate(lengths: list[int], padding: Padding) -> None:
    chunks = [chunk(length) for length in lengths]
    batch = collate(chunks, padding)
    assert batch["input_ids"].shape == (len(lengths), max(lengths))
    assert int((batch["attention_mask"] == 0).sum()) == int((batch["input_ids"] == 9).sum()) - sum(
        int((c["input_ids"] == 9).sum()) for c in chunks
    )
    outputs = ModelOutput({"tokens": batch["input_ids"][..., None].float(), "sentence": batch["sentence"]})
    for made, original in zip(split_outputs(outputs, lengths, lambda key: True, padding), chunks, strict=True):
        assert isinstance(made, ModelOutput)
        assert torch.equal(made["tokens"][..., 0].long(), original["input_ids"])
        assert made["sentence"] == original["sentence"]


def test_output_without_token_axis_is_never_cut() -> None:
    outputs = {"logits": torch.zeros(2, 5)}
    parts = split_outputs(outputs, [3, 5], lambda key: False, PADDING)
    assert [part["logits"].shape for part in parts] == [(1, 5), (1, 5)]


def test_without_a_mask_only_equal_lengths_share_a_batch() -> None:
    bare = [{"input_ids": chunk(length)["input_ids"]} for length in (3, 4)]
    assert signature(bare[0], PADDING) != signature(bare[1], PADDING)
    assert signature(chunk(3), PADDING) == signature(chunk(4), PADDING)
    assert signature(chunk(3), Padding({})) != signature(chunk(4), Padding({}))


def test_images_of_other_shapes_never_share_a_batch() -> None:
    small, large = ({"pixel_values": torch.zeros(1, 3, size, size)} for size in (8, 9))
    assert signature(small, PADDING) != signature(large, PADDING)
