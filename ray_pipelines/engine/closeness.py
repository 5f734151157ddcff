"""Whether model outputs, or results, that should be equal are."""

from __future__ import annotations

import math
from typing import Any

import torch

__all__ = ["are_close", "are_near"]

CONFIDENCE = "confidence"
"""An output that stands for all others, in models whose outputs are chosen by it: spans, tokens, masks."""
FLOAT_TOLERANCE = 1e-3
HALF_TOLERANCE = 5e-2


def are_close(alone: Any, batched: Any, is_exact: bool) -> bool:
    """Whether two outputs of one chunk, or of one batch, are equal but for rounding.

    Args:
        alone: The outputs that are right: of the chunk by itself, say.
        batched: The others: of the same chunk in a batch.
        is_exact: Whether the model computes in float32 throughout. If not, integers may differ too: generated tokens
            follow the rounding.
    """
    # What is chosen by small differences may come out otherwise after rounding; such models say what to look at.
    for name in [CONFIDENCE] if CONFIDENCE in alone else alone:
        value = alone[name]
        if isinstance(value, int | float | str) and value != batched[name]:
            return False
        if not isinstance(value, torch.Tensor) or not isinstance(batched[name], torch.Tensor):
            continue
        value, other = _without_padding(value, batched[name])
        if value.is_floating_point():
            tolerance = FLOAT_TOLERANCE if is_exact else HALF_TOLERANCE
            # A model that overflows has no largest number; the same overflow is no difference.
            finite = value[value.isfinite()]
            atol = tolerance * (1.0 + float(finite.abs().max()) if finite.numel() else 1.0)
            if other.shape != value.shape or not torch.allclose(
                other.float(), value.float(), rtol=0, atol=atol, equal_nan=True
            ):
                return False
        elif is_exact and not _are_equal(value, other):
            return False
    return True


def are_near(one: Any, other: Any) -> bool:
    """Whether two results are equal but for the last digits of their numbers.

    >>> are_near([{"label": "a", "score": 0.5}], [{"label": "a", "score": 0.50000001}])
    True
    """
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-7)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(are_near(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(are_near, one, other))
    return bool(one == other)


def _are_equal(value: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether integers are equal; levels of pixels, which were rounded to 8 bits, may be the next.

    >>> _are_equal(torch.tensor([7, 8], dtype=torch.uint8), torch.tensor([7, 9], dtype=torch.uint8))
    True
    """
    if value.dtype == other.dtype == torch.uint8 and value.shape == other.shape:
        return not bool(((value.int() - other.int()).abs() > 1).any())
    return torch.equal(value, other)


def _without_padding(value: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both tensors, or both cut to the shorter where one goes on along its last axis with the same value only.

    What was generated in a batch is as long as the longest of it.

    >>> _without_padding(torch.tensor([[5, 6]]), torch.tensor([[5, 6, 0, 0]]))[1].tolist()
    [[5, 6]]
    """
    if value.ndim != other.ndim or value.ndim < 2 or value.shape[:-1] != other.shape[:-1]:
        return value, other
    length = min(value.shape[-1], other.shape[-1])
    rest = max((value, other), key=lambda tensor: tensor.shape[-1])[..., length:]
    is_padding = length > 0 and rest.numel() > 0 and bool((rest == rest.flatten()[0]).all())
    return (value[..., :length], other[..., :length]) if is_padding else (value, other)
