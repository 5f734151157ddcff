"""Which chunks share a forward; one batch out of many inputs, and many outputs out of one batch.

Padding must change nothing. So only tensors that have a mask beside them are padded (`input_ids` or `input_values`
with an `attention_mask`), only along axis 1, and outputs with a token axis are cut back to each chunk's own length.
Inputs that cannot be padded share a batch if their shapes are equal, and only then; a pipeline that knows that its mask
would not be honoured hides it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.utils import ModelOutput

__all__ = [
    "HIDDEN_MASK",
    "MASK",
    "OF_TOKENS",
    "PADDED_WITH_ONE",
    "PADDED_WITH_ZERO",
    "Opaque",
    "Padding",
    "collate",
    "cost",
    "cost_unit",
    "hide_mask",
    "num_tokens",
    "num_values",
    "padding_of",
    "plan_batches",
    "restore_mask",
    "signature",
    "split_outputs",
]

MASK, HIDDEN_MASK = "attention_mask", "unpadded_attention_mask"
PADDED_WITH_ZERO = (MASK, "token_type_ids", "mm_token_type_ids")
PADDED_WITH_ONE = ("special_tokens_mask", "p_mask")
OF_TOKENS = ("input_ids", "position_ids", HIDDEN_MASK, *PADDED_WITH_ZERO, *PADDED_WITH_ONE)
"""Model inputs with a value for each token of a text."""
MAX_PADDED = 1.5
FREE_PADDING = 1 / 16
SEQUENCES = ("input_ids", "input_values", "input_features")


class Opaque(dict[str, Any]):
    """A chunk that is no mapping of model inputs but whatever a pipeline makes, under `inputs`; it shares no batch."""


@dataclass(frozen=True)
class Padding:
    """How a pipeline's inputs are padded.

    Attributes:
        values: Padding value of each key that may be padded along axis 1; empty if nothing may.
        left: Whether padding goes before the tokens, as some tokenizers want it (XLNet, generation).
        joins: Whether tensors that do not go with the tokens are joined along axis 0 whatever their lengths there: the
            images of rows of which some have several.
    """

    values: Mapping[str, float]
    left: bool = False
    joins: bool = False

    def place(self, length: int) -> slice:
        """Where the `length` own tokens of a chunk stand along a padded axis."""
        return slice(-length, None) if self.left else slice(0, length)


def padding_of(tokenizer: Any, feature_extractor: Any, joins: bool = False) -> Padding:
    """The padding of a pipeline with these preprocessors; without a padding value, nothing is padded."""
    values: dict[str, float] = {}
    token = getattr(tokenizer, "pad_token_id", None)
    if token is not None:
        values["input_ids"] = token
    sample = getattr(feature_extractor, "padding_value", None)
    if sample is not None:
        values |= {"input_values": sample, "input_features": sample}
    if not values:
        return Padding({}, joins=joins)
    return Padding(
        {
            **values,
            **dict.fromkeys(PADDED_WITH_ZERO, 0),
            **dict.fromkeys(PADDED_WITH_ONE, 1),
            "offset_mapping": 0,
            "bbox": 0,
            "word_ids": -1,
        },
        left=getattr(tokenizer, "padding_side", "right") == "left",
        joins=joins,
    )


def hide_mask(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a chunk that is not to be padded, as only what has an `attention_mask` is."""
    return {HIDDEN_MASK if name == MASK else name: value for name, value in inputs.items()}


def restore_mask(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs as the model takes them, whether their mask was hidden or not."""
    return {MASK if name == HIDDEN_MASK else name: value for name, value in inputs.items()}


def num_tokens(inputs: Mapping[str, Any]) -> int | None:
    """The length of a chunk along its sequence axis, or None where it has none (an image)."""
    for key in SEQUENCES:
        if isinstance(inputs.get(key), torch.Tensor) and inputs[key].ndim >= 2:
            return int(inputs[key].shape[1])
    return None


def cost(inputs: Mapping[str, Any]) -> int:
    """The cost of a chunk: its tokens or samples, else the pixels (or values) of its largest tensor."""
    length = num_tokens(inputs)
    if length is not None:
        return length
    return num_values(inputs)


def num_values(inputs: Mapping[str, Any]) -> int:
    """The pixels, samples or other numbers of the largest tensor of a chunk."""
    return max((value.numel() for value in inputs.values() if isinstance(value, torch.Tensor)), default=1)


def cost_unit(inputs: Mapping[str, Any]) -> str:
    """What `cost` counts.

    >>> cost_unit({"input_ids": torch.ones(1, 3)})
    'tokens'
    """
    units = {"input_ids": "tokens", "input_values": "samples", "input_features": "frames", "pixel_values": "pixels"}
    return next((unit for key, unit in units.items() if isinstance(inputs.get(key), torch.Tensor)), "values")


def signature(inputs: Mapping[str, Any], padding: Padding) -> Hashable:
    """What two chunks must have in common to share a batch: keys, types, and shapes but for axes that are padded."""
    if isinstance(inputs, Opaque):
        return id(inputs)
    can_pad = isinstance(inputs.get(MASK), torch.Tensor)
    parts = []
    for key in sorted(inputs):
        value = inputs[key]
        if isinstance(value, torch.Tensor):
            shape: tuple[int | None, ...] = tuple(value.shape)
            if can_pad and key in padding.values and value.ndim >= 2 and value.shape[1] == num_tokens(inputs):
                shape = (shape[0], None, *shape[2:])
            elif padding.joins and shape:
                shape = (None, *shape[1:])
            parts.append((key, str(value.dtype), shape))
        else:
            parts.append((key, type(value).__name__ if value is not None else "null", ()))
    return tuple(part if part[0] != "sentence" else ("sentence", "", ()) for part in parts)


def plan_batches(
    costs: Sequence[int],
    *,
    max_size: int,
    budget: int | Callable[[], int] | None = None,
    groups: Sequence[Hashable] | None = None,
) -> list[list[int]]:
    """Batches of indices: every index in exactly one, each batch of one group, sorted by cost and within the budget.

    The padded cost of a batch is its longest cost times its size. A chunk over the budget by itself is a batch of one.
    Where costs jump, a batch ends before its budget, and before it would be padded to more than `MAX_PADDED` times its
    own cost: no budget makes a long chunk pad many short ones. Padding of up to `FREE_PADDING` of the budget costs less
    than one more forward and is let be.

    Args:
        costs: The cost of each chunk.
        max_size: Chunks of one batch at most.
        budget: Padded cost of one batch at most, or what gives that of the next batch; None for no limit.
        groups: The group of each chunk; chunks of different groups never share a batch.

    >>> plan_batches([5, 1, 2, 5], max_size=2)
    [[1, 2], [0, 3]]
    >>> plan_batches([5, 1, 2, 5], max_size=4, budget=6)
    [[1, 2], [0], [3]]
    >>> plan_batches([1, 9, 1, 9], max_size=4)
    [[0, 2], [1, 3]]
    """
    by_group: dict[Hashable, list[int]] = {}
    for index in range(len(costs)):
        by_group.setdefault(groups[index] if groups is not None else None, []).append(index)

    def following() -> int | None:
        return budget() if callable(budget) else budget

    batches: list[list[int]] = []
    for indices in by_group.values():
        batch: list[int] = []
        total = 0
        limit = following()
        for index in sorted(indices, key=lambda i: costs[i]):
            padded, own = costs[index] * (len(batch) + 1), total + costs[index]
            most = max(MAX_PADDED * own, own + FREE_PADDING * (limit or 0))
            is_over = (limit is not None and padded > limit) or padded > most
            if batch and (len(batch) >= max_size or is_over):
                batches.append(batch)
                batch, total, limit = [], 0, following()
            batch.append(index)
            total += costs[index]
        batches.append(batch)
    return batches


def collate(inputs: Sequence[Mapping[str, Any]], padding: Padding) -> dict[str, Any]:
    """One batch out of chunks of equal signature: tensors padded and stacked, other values as lists.

    Args:
        inputs: Model inputs of each chunk, tensors with a leading axis of 1.
        padding: Which keys may be padded, and with what.
    """
    batch: dict[str, Any] = {}
    for key in inputs[0]:
        values = [chunk[key] for chunk in inputs]
        if not isinstance(values[0], torch.Tensor):
            batch[key] = values
            continue
        lengths = [value.shape[1] if value.ndim >= 2 else 0 for value in values]
        if len(set(lengths)) > 1:
            side = "left" if padding.left else "right"
            rows = [value[0] for value in values]
            batch[key] = pad_sequence(rows, batch_first=True, padding_value=padding.values[key], padding_side=side)
        else:
            batch[key] = torch.cat(values)
    return batch


def split_outputs(
    outputs: Mapping[str, Any],
    lengths: Sequence[int | None],
    is_sequence: Callable[[str], bool],
    padding: Padding,
) -> list[Mapping[str, Any]]:
    """The outputs of each chunk, with a leading axis of 1, out of those of a batch.

    Args:
        outputs: Model outputs of the batch.
        lengths: The true length of each chunk, to which outputs with a token axis are cut.
        is_sequence: Whether an output has a token axis (axis 1).
        padding: How the batch was padded.

    Raises:
        ValueError: No output has a row per chunk (an image that the processor cut into several, say).
    """
    size = len(lengths)
    tensors = [value for value in outputs.values() if isinstance(value, torch.Tensor) and value.ndim > 0]
    if tensors and all(value.shape[0] != size for value in tensors):
        raise ValueError(f"the model's outputs do not have one row for each of {size} inputs.")
    padded_length = max((length or 0 for length in lengths), default=0)
    columns = [
        _split(value, lengths, padding, is_sequence(key) and getattr(value, "ndim", 0) >= 2, padded_length)
        for key, value in outputs.items()
    ]
    rows = (dict(zip(outputs, values, strict=True)) for values in zip(*columns, strict=True)) if columns else ()
    return [ModelOutput(row) for row in rows] if isinstance(outputs, ModelOutput) else list(rows)


def _split(
    value: Any, lengths: Sequence[int | None], padding: Padding, is_sequence: bool, padded_length: int
) -> Sequence[Any]:
    """One output of each chunk."""
    size = len(lengths)
    if isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] == size:
        parts = torch.split(value, 1)
        if not is_sequence or value.shape[1] != padded_length:
            return parts
        return [
            part if length is None or length == padded_length else part[:, padding.place(length)]
            for part, length in zip(parts, lengths, strict=True)
        ]
    return value if isinstance(value, list) and len(value) == size else [value] * size
