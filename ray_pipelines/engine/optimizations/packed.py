"""Encoders without padding: the tokens of a batch's rows stand in one long row inside of the encoder.

A hook before the encoder takes the padding out, one after it puts it back, so embeddings, heads and everything else
see the batch as ever. In between, layers work token by token but for attention, which runs row by row: rows of equal
length at once, each seeing only itself. What is computed for a row is what it would be alone.

transformers 5.23 packs by `position_ids` in decoders and through flash attention on CUDA only; its encoders keep the
padding. This works on any device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ray_pipelines.errors import ModelLoadError

__all__ = ["PACKABLE", "pack_encoder"]

PACKABLE: Mapping[str, str] = {
    "bert": "encoder",
    "camembert": "encoder",
    "data2vec-text": "encoder",
    "distilbert": "transformer",
    "electra": "encoder",
    "roberta": "encoder",
    "xlm-roberta": "encoder",
}
"""Model type: name of its encoder, whose layers know of positions only through attention."""

ATTENTION = "ray_pipelines_packed"


@dataclass(frozen=True)
class Packing:
    """Where the tokens of a batch are.

    Attributes:
        is_token: bool[batch, padded length].
        lengths: Tokens of each row.
    """

    is_token: torch.Tensor
    lengths: tuple[int, ...]

    def pack(self, hidden: torch.Tensor) -> torch.Tensor:
        """[batch, padded length, size] without padding: [1, tokens, size]."""
        return hidden[self.is_token].unsqueeze(0)

    def unpack(self, hidden: torch.Tensor) -> torch.Tensor:
        """[1, tokens, size] with padding: [batch, padded length, size], zero where there is no token."""
        padded = hidden.new_zeros(*self.is_token.shape, hidden.shape[-1])
        padded[self.is_token] = hidden[0]
        return padded


def pack_encoder(model: Any) -> None:
    """Lets the model's encoder run without padding, in place.

    Raises:
        ModelLoadError: The model's encoder is not one that this is known to be right for.
    """
    config = model.config
    body = getattr(model, "base_model", model)
    name = PACKABLE.get(config.model_type)
    encoder = getattr(body, name, None) if name else None
    if encoder is None or getattr(config, "is_decoder", False) or getattr(config, "is_encoder_decoder", False):
        raise ModelLoadError(
            f"optimize.packed: expected an encoder of one of the types {', '.join(PACKABLE)}; got {config.model_type}. "
            "Drop it."
        )
    if config.output_hidden_states or getattr(config, "output_attentions", False):
        raise ModelLoadError("optimize.packed: expected a model whose config asks for no hidden states or attentions.")
    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    model.set_attn_implementation(ATTENTION)
    encoder.register_forward_pre_hook(_pack, with_kwargs=True)
    encoder.register_forward_hook(_unpack, with_kwargs=True)


def _pack(encoder: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """Takes the padding out of a batch that has some, and tells the layers where rows begin."""
    mask = keywords.get("attention_mask")
    hidden = arguments[0] if arguments else keywords["hidden_states"]
    if mask is None or keywords.get("output_hidden_states") or keywords.get("output_attentions"):
        return None
    # The mask that attention would take, [batch, 1, queries, keys]: all queries of a row see the same keys.
    is_token = mask[:, 0, 0, :]
    packing = Packing(is_token, tuple(is_token.sum(dim=1).tolist()))
    keywords = {**keywords, "hidden_states": packing.pack(hidden), "attention_mask": None, "packing": packing}
    return (), keywords


def _unpack(encoder: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], outputs: Any) -> Any:
    """Puts the padding back."""
    packing = keywords.get("packing")
    if packing is not None:
        outputs.last_hidden_state = packing.unpack(outputs.last_hidden_state)
    return outputs


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    packing: Packing | None = None,
    **keywords: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of each packed row to itself; of a batch as ever where nothing is packed.

    Args:
        module: The layer's attention.
        query, key, value: [1, heads, tokens, size of a head].
        attention_mask: None where rows are packed.
        packing: Where rows begin.
        **keywords: As transformers passes them on.

    Returns:
        [1, tokens, heads, size of a head], and no weights.
    """
    if packing is None:
        outputs, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **keywords)
        return outputs, None
    parts = []
    start = 0
    for length, group in groupby(packing.lengths):
        count = len(list(group))
        stop = start + length * count
        rows = [_rows(states[0, :, start:stop], count) for states in (query, key, value)]
        made, _ = sdpa_attention_forward(module, *rows, None, **keywords)
        parts.append(made.reshape(1, length * count, *made.shape[2:]))
        start = stop
    return torch.cat(parts, dim=1), None


def _rows(states: torch.Tensor, count: int) -> torch.Tensor:
    """[heads, tokens, size] of `count` rows of equal length as [rows, heads, length, size]."""
    heads, tokens, size = states.shape
    return states.reshape(heads, count, tokens // count, size).transpose(0, 1)
