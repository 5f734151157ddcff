"""The parameters of tasks that continue texts and reply to chats."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic

from ray_pipelines.tasks._generation import GenerationParameters


class ReplyParameters(GenerationParameters):
    """What is given of a reply and how it ends, beside every field of `GenerationConfig`."""

    return_full_text: Annotated[
        bool, pydantic.Field(description="Give the prompt with its continuation, rather than the new text only.")
    ] = True
    return_tensors: Annotated[
        bool, pydantic.Field(description="Give the token ids of prompt and continuation in place of texts.")
    ] = False
    clean_up_tokenization_spaces: Annotated[
        bool | None,
        pydantic.Field(description="Remove spaces before punctuation; unset, as the tokenizer is configured."),
    ] = None
    skip_special_tokens: Annotated[
        bool, pydantic.Field(description="Leave special tokens such as the end token out of the text.")
    ] = True
    stop_sequence: Annotated[
        str | tuple[str, ...] | None,
        pydantic.Field(description="A text, or several, that end the generation; they remain in the result."),
    ] = None
    continue_final_message: Annotated[
        bool | None,
        pydantic.Field(
            description="Continue the last message of a chat rather than reply to it; unset, where it is the "
            "assistant's."
        ),
    ] = None
    tools: Annotated[
        tuple[dict[str, Any], ...] | None,
        pydantic.Field(description="JSON schemas of the functions that the model may call, for its chat template."),
    ] = None
