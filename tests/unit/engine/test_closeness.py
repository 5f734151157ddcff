"""What counts as the same output of a batch and of a row alone."""

from __future__ import annotations

import torch

from ray_pipelines.engine.closeness import are_close


def outputs(confidence: float, *tokens: int) -> dict[str, torch.Tensor]:
    return {"confidence": torch.tensor([confidence]), "tokens": torch.tensor([tokens])}


def test_what_is_chosen_by_small_differences_may_come_out_otherwise() -> None:
    assert are_close(outputs(1.0, 3, 4), outputs(1.00001, 3, 5), is_exact=True)
    assert not are_close(outputs(1.0, 3, 4), outputs(1.1, 3, 4), is_exact=True)


def test_without_a_confidence_integers_must_be_equal() -> None:
    one, other = ({"tokens": torch.tensor([token])} for token in (3, 4))
    assert not are_close(one, other, is_exact=True)
    assert are_close(one, other, is_exact=False)


def test_levels_of_pixels_may_be_rounded_to_the_next() -> None:
    one, next_to_it, other = ({"pixels": torch.tensor([[0, level]], dtype=torch.uint8)} for level in (254, 255, 0))
    assert are_close(one, next_to_it, is_exact=True)
    assert not are_close(one, other, is_exact=True)


def test_a_model_that_overflows_is_compared_by_the_numbers_it_has() -> None:
    one = {"logits": torch.tensor([[1.0, float("nan"), float("inf"), -float("inf")]])}
    assert are_close(one, {"logits": one["logits"] * 1.00001}, is_exact=True)
    assert not are_close(one, {"logits": one["logits"] + 1}, is_exact=True)
    assert not are_close(one, {"logits": torch.ones(1, 4)}, is_exact=True)


def test_plain_values_must_be_equal() -> None:
    """A class of one's own may note the length of its inputs, which is another in a padded batch."""
    one = {"logits": torch.ones(1, 4), "length": 3, "text": "a"}
    assert are_close(one, dict(one), is_exact=False)
    assert not are_close(one, {**one, "length": 5}, is_exact=False)
    assert not are_close(one, {**one, "text": "b"}, is_exact=False)
