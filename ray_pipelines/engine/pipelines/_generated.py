"""What padding does to generated sequences: whether it changes them, and where each ends that has been padded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from ray_pipelines.engine.closeness import are_close

if TYPE_CHECKING:
    from transformers import Pipeline
else:
    Pipeline = object

__all__ = ["KnowsPadding", "end_tokens", "ends_look_like_padding", "have_same_logits", "length_before", "own_length"]

SPECIAL = ("decoder_start_token_id", "bos_token_id", "eos_token_id")


class KnowsPadding(Pipeline):  # type: ignore[misc]
    """A pipeline that learns whether padding changes what its model generates, once for all of its parameters."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Copies with other parameters share it.
        self._learned: dict[str, bool] = {}

    @property
    def _pads(self) -> bool | None:
        """Whether rows of unequal length may be padded; None until one batch was looked at."""
        return self._learned.get("pads")

    @_pads.setter
    def _pads(self, value: bool) -> None:
        self._learned["pads"] = value


def have_same_logits(model: PreTrainedModel, one: Mapping[str, Any], other: Mapping[str, Any], pad: int | None) -> bool:
    """Whether a row begins alike with two versions of its inputs: by itself, and with padding.

    Args:
        model: The model.
        one: Arguments of `generate`, for one row.
        other: The others.
        pad: The padding token.
    """
    config = GenerationConfig(
        **{name: getattr(model.generation_config, name, None) for name in SPECIAL},
        max_new_tokens=1,
        do_sample=False,
        num_beams=1,
        num_return_sequences=1,
        pad_token_id=pad,
        output_logits=True,
        return_dict_in_generate=True,
    )
    first, second = ({"": model.generate(**inputs, generation_config=config).logits[0]} for inputs in (one, other))
    return are_close(first, second, is_exact=model.dtype in (torch.float32, torch.float64))


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
    return length_before(pad, tokens)


def length_before(pad: int | None, tokens: Sequence[int]) -> int:
    """How many tokens come before those at the end that are all padding.

    >>> length_before(0, [0, 5, 0, 6, 0, 0])
    4
    """
    length = len(tokens)
    while length and tokens[length - 1] == pad:
        length -= 1
    return length
