"""How long a model's inputs can be, and how long a pipeline makes them."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Pipeline

__all__ = ["cut_at", "generation_settings", "max_tokens", "new_tokens", "num_embeddings"]

NOT_CUT = (None, False, "do_not_truncate")
OTHER_TOWERS = ("vision", "visual", "image", "audio", "speech")
POSITION_EMBEDDINGS = ("position_embeddings", "position_embedding", "embed_positions", "wpe")


def cut_at(pipe: Pipeline) -> int | None:
    """The length in tokens at which texts are cut, if they are."""
    arguments = dict(pipe._preprocess_params)
    for nested in ("tokenize_kwargs", "tokenizer_kwargs"):
        arguments |= arguments.get(nested) or {}
    always = pipe.task == "token-classification"
    if pipe.tokenizer is None or (not always and arguments.get("truncation") in NOT_CUT):
        return None
    return int(arguments.get("max_length") or pipe.tokenizer.model_max_length)


def new_tokens(pipe: Pipeline) -> int:
    """The tokens that are generated for each chunk at most; 0 where none are, or nothing limits them.

    A user's own pipeline that calls `generate` by itself is taken by the arguments of its forward.
    """
    if not getattr(pipe.model, "can_generate", lambda: False)():
        return 0
    if not getattr(pipe, "_pipeline_calls_generate", False):
        return int(_forward_arguments(pipe).get("max_new_tokens") or 0)
    settings = generation_settings(pipe)
    return int(settings.get("max_new_tokens") or settings.get("max_length") or 0)


def generation_settings(pipe: Pipeline) -> dict[str, Any]:
    """The generation parameters in force: the call's, over the pipeline's, over the model's own, over the defaults.

    Args:
        pipe: A pipeline that generates, by a model that can.
    """
    arguments = pipe._prepare_generate_kwargs(_forward_arguments(pipe))
    settings: dict[str, Any] = pipe._get_set_generation_params(arguments)
    return settings


def _forward_arguments(pipe: Pipeline) -> dict[str, Any]:
    return {**pipe._forward_params, **(pipe._forward_params.get("generate_kwargs") or {})}


def max_tokens(model: Any) -> int | None:
    """The number of text tokens that the model has absolute positions for, or None where it has no such limit."""
    if getattr(getattr(model, "config", None), "reset_position_index_per_cell", False):
        # Of TAPAS, whose positions begin anew in each cell of a table and stay at the last one.
        return None
    limits = []
    for name, module in model.named_modules():
        if any(tower in name for tower in OTHER_TOWERS):
            continue
        if name.rsplit(".", 1)[-1] in POSITION_EMBEDDINGS and isinstance(module, torch.nn.Embedding):
            offset = module.padding_idx + 1 if module.padding_idx is not None else getattr(module, "offset", 0)
            limits.append(module.num_embeddings - offset)
    return min(limits, default=None)


def num_embeddings(model: Any) -> int | None:
    """The number of tokens that the model knows, or None where that cannot be told."""
    try:
        embeddings = model.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        return None
    return embeddings.num_embeddings if isinstance(embeddings, torch.nn.Embedding) else None
