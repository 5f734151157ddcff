"""The tokenizer's arguments that text tasks accept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Annotated, Any, Literal

import pydantic

from ray_pipelines.tasks import Parameters

Truncation = bool | Literal["longest_first", "only_first", "only_second", "do_not_truncate"]
Padding = bool | Literal["longest", "max_length", "do_not_pad"]


class TokenizerParameters(Parameters):
    """Arguments of the tokenizer's call."""

    truncation: Annotated[
        Truncation | None,
        pydantic.Field(
            description="Cut texts at `max_length`, or else at the length that the model takes. Unset, a longer text "
            "is a dead letter."
        ),
    ] = None
    max_length: Annotated[
        int | None, pydantic.Field(gt=0, description="Length in tokens at which texts are cut (with `truncation`).")
    ] = None
    padding: Annotated[
        Padding | None,
        pydantic.Field(description="Pad each text by itself, e.g. to `max_length`; batches are padded anyway."),
    ] = None
    add_special_tokens: Annotated[
        bool, pydantic.Field(description="Add the tokens that the model expects around a text, such as [CLS].")
    ] = True


def set_arguments(parameters: TokenizerParameters) -> dict[str, Any]:
    """The tokenizer's arguments that the user set."""
    names = TokenizerParameters.model_fields.keys() & parameters.model_fields_set
    return {name: getattr(parameters, name) for name in names}


UNPADDED = (None, False, "do_not_pad")


def tokenize_many(tokenizer: Any, texts: Sequence[Any], pairs: Sequence[str] | None = None, **arguments: Any) -> Any:
    """The model inputs of many texts by one call of a fast tokenizer, each as it would be by itself.

    Args:
        tokenizer: The tokenizer.
        texts: Texts, or lists of words.
        pairs: Second texts.
        **arguments: Further arguments of the tokenizer's call.

    Returns:
        For each text its tensors, `int64[1, tokens, …]`: parts of one tensor for all.

    Raises:
        ValueError: The tokenizer is a slow one, or texts are to be padded, which would depend on their neighbours.
    """
    import torch

    if not tokenizer.is_fast or arguments.get("padding") not in UNPADDED:
        raise ValueError("texts: expected a fast tokenizer, and no padding.")
    encoded = tokenizer(list(texts), list(pairs) if pairs is not None else None, **arguments)
    lengths = [len(ids) for ids in encoded["input_ids"]]
    columns = {
        name: torch.split(torch.tensor(list(chain.from_iterable(values)), dtype=torch.int64)[None], lengths, dim=1)
        for name, values in encoded.items()
    }
    return [dict(zip(columns, tensors, strict=True)) for tensors in zip(*columns.values(), strict=True)]


def preprocess_texts(pipe: Any, items: Sequence[Any], arguments: Mapping[str, Any]) -> Sequence[Any]:
    """The model inputs of many texts, or of pairs `{text, text_pair}`, for pipelines that hand texts to the tokenizer.

    Args:
        pipe: The pipeline.
        items: Texts and pairs; anything else is left to the pipeline.
        arguments: Arguments of the tokenizer's call.
    """
    made: list[Any] = [None] * len(items)
    texts = [index for index, item in enumerate(items) if isinstance(item, str)]
    # An empty second text is none to a tokenizer that is given one pair, and one to a tokenizer that is given many.
    pairs = [
        index
        for index, item in enumerate(items)
        if isinstance(item, dict) and set(item) == {"text", "text_pair"} and item["text_pair"]
    ]
    if texts:
        chunks = tokenize_many(pipe.tokenizer, [items[index] for index in texts], **arguments)
        for index, chunk in zip(texts, chunks, strict=True):
            made[index] = [chunk]
    if pairs:
        first, second = ([items[index][name] for index in pairs] for name in ("text", "text_pair"))
        for index, chunk in zip(pairs, tokenize_many(pipe.tokenizer, first, second, **arguments), strict=True):
            made[index] = [chunk]
    return made
