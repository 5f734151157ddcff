"""text-generation: the continuation of each text, or the reply to each chat.

A row holds a text or a chat (a list of `{role, content}`); the kinds may differ from row to row, the result's type does
not: `generated_text` is the text with its prompt, and for a chat the assistant's message (with what the chat's last
message began of it, if that is the assistant's). `return_full_text: false` gives the new text only. A model with a
response template has its reply parsed into content, thoughts and tool calls, of which the content is the result;
`return_full_text: false` gives all of it as it was generated.

Prompts share a batch, padded on the left, wherever that changes nothing (see `engine/pipelines/text_generation.py`).
As in transformers, a model **samples** unless `do_sample` is false or its own generation config says so; rows then run
one by one, each under a seed of its own.

Bugs of transformers 5.23 that are put right: `max_length` reached the tokenizer only if passed to a call, not when the
pipeline is made, so `truncation` did not cut there; a prompt with more new tokens than the model has positions ended
in an index error, which on a GPU ends the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic

from ray_pipelines.media.messages import join_texts, parse_chat, reply_of
from ray_pipelines.tasks import Field, Task
from ray_pipelines.tasks._generation import GenerationParameters, generation_arguments, is_sampling
from ray_pipelines.tasks._replies import ReplyParameters
from ray_pipelines.tasks._tokenizer import Padding, Truncation

if TYPE_CHECKING:
    import pyarrow as pa


class TextGenerationParameters(ReplyParameters):
    """Parameters of text-generation: its own, and every one of `GenerationConfig`."""

    return_text: Annotated[
        bool, pydantic.Field(description="Give texts; false gives token ids, as `return_tensors` does.")
    ] = True
    prefix: Annotated[str | None, pydantic.Field(description="Put before every prompt, but not before chats.")] = None
    handle_long_generation: Annotated[
        Literal["hole"] | None,
        pydantic.Field(
            description="`hole` cuts the beginning of prompts that leave no room for the new tokens; unset, such a row "
            "is a dead letter."
        ),
    ] = None
    truncation: Annotated[
        Truncation | None,
        pydantic.Field(description="Cut prompts at `max_length` tokens, or else at the length that the model takes."),
    ] = None
    padding: Annotated[
        Padding | None, pydantic.Field(description="Pad each prompt by itself; batches are padded anyway.")
    ] = None
    add_special_tokens: Annotated[
        bool | None,
        pydantic.Field(
            description="Add the tokens that the model expects around a text; unset, as the tokenizer does. Chats have "
            "theirs from the template."
        ),
    ] = None
    documents: Annotated[
        tuple[dict[str, str], ...] | None,
        pydantic.Field(description="Documents {title, text} to answer from, for the model's chat template."),
    ] = None
    tokenizer_encode_kwargs: Annotated[
        dict[str, Any] | None,
        pydantic.Field(description="Further arguments of the tokenizer's call, or of the chat template's."),
    ] = None

    @pydantic.model_validator(mode="after")
    def _one_kind_of_result(self) -> TextGenerationParameters:
        if self.return_tensors and self.return_text and "return_text" in self.model_fields_set:
            raise ValueError("return_tensors: cannot be set beside return_text. Drop one of them.")
        if self.gives_tokens and "return_full_text" in self.model_fields_set:
            raise ValueError("return_full_text: cannot be set where results are token ids. Drop it.")
        return self

    @property
    def gives_tokens(self) -> bool:
        """Whether results are token ids."""
        return self.return_tensors or not self.return_text


def to_item(fields: Mapping[str, Any]) -> Any:
    """The text, or the messages of the chat."""
    text = fields["text"]
    return text if isinstance(text, str) else join_texts(parse_chat(text))


def pipeline_parameters(parameters: TextGenerationParameters) -> dict[str, Any]:
    """The pipeline's keyword arguments."""
    own = TextGenerationParameters.model_fields.keys() - GenerationParameters.model_fields.keys()
    arguments = parameters.model_dump(include=set(own), exclude_unset=True, exclude={"return_text", "return_tensors"})
    arguments = {name: list(value) if isinstance(value, tuple) else value for name, value in arguments.items()}
    arguments |= generation_arguments(parameters)
    stops = [arguments.pop(name, None) or [] for name in ("stop_sequence", "stop_strings")]
    # Only under this name are they handed to `generate` with the tokenizer that it needs for them.
    arguments["stop_sequence"] = [
        text for stop in stops for text in ([stop] if isinstance(stop, str) else stop)
    ] or None
    if parameters.gives_tokens:
        arguments.pop("return_full_text", None)
        arguments["return_tensors"] = True
    return {name: value for name, value in arguments.items() if value is not None}


def result_type(parameters: TextGenerationParameters) -> pa.DataType:
    """`list<struct<generated_text: string>>`, or of `generated_token_ids: list<int32>` with `return_tensors`."""
    import pyarrow as pa

    if parameters.gives_tokens:
        return pa.list_(pa.struct([("generated_token_ids", pa.list_(pa.int32()))]))
    return pa.list_(pa.struct([("generated_text", pa.string())]))


def to_result(result: Any, parameters: TextGenerationParameters) -> Any:
    """The texts, of chats the last message's."""
    if parameters.gives_tokens:
        return [{"generated_token_ids": list(record["generated_token_ids"])} for record in result]
    return [{"generated_text": reply_of(record["generated_text"])} for record in result]


TASK = Task(
    name="text-generation",
    summary="The continuation of each text, or the reply to each chat.",
    inputs=(Field("text", "text", "A prompt, or a chat: a list of messages {role, content}."),),
    parameters=TextGenerationParameters,
    result_type=result_type,
    result_description="list of {generated_text}, one per returned sequence",
    to_item=to_item,
    to_result=to_result,
    pipeline_parameters=pipeline_parameters,
    pipeline_class="ray_pipelines.engine.pipelines.text_generation:TextGenerationPipeline",
    takes_assistant=True,
    is_random=is_sampling,
)
