"""Where a generated sequence ends, in a batch whose longest row it has been padded to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

__all__ = ["end_tokens", "ends_look_like_padding", "own_length"]


def end_tokens(settings: Mapping[str, Any]) -> Set[int]:
    """The tokens that end a sequence.

    >>> end_tokens({"eos_token_id": 2}), end_tokens({"eos_token_id": [2]}), end_tokens({})
    ({2}, {2}, set())

    Args:
        settings: Generation parameters.
    """
    ends = settings.get("eos_token_id")
    return {ends} if isinstance(ends, int) else set(ends or ())


def ends_look_like_padding(settings: Mapping[str, Any]) -> bool:
    """Whether nothing tells the padding behind a stop string from an end token.

    Args:
        settings: Generation parameters.
    """
    pad = settings.get("pad_token_id")
    return bool(settings.get("stop_strings")) and (pad is None or pad in end_tokens(settings))


def own_length(tokens: Sequence[int], end_tokens: Set[int], pad: int | None) -> int:
    """How many of the new tokens come before the padding.

    >>> own_length([5, 6, 2, 0, 0], {2}, None)
    3
    >>> own_length([5, 6, 0, 0], {2}, 0)
    2

    Args:
        tokens: The new tokens of one sequence.
        end_tokens: Tokens that end a sequence.
        pad: What follows a sequence that a stop string has ended; None if there are none.
    """
    for index, token in enumerate(tokens):
        if token in end_tokens:
            return index + 1
    length = len(tokens)
    while length and tokens[length - 1] == pad:
        length -= 1
    return length
