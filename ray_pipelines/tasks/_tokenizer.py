"""The tokenizer's arguments that text tasks accept."""

from __future__ import annotations

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
