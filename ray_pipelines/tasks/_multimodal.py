"""What the tasks share that generate text from chats with images, videos and recordings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import pydantic

from ray_pipelines.errors import InvalidInput
from ray_pipelines.media.messages import reply_of
from ray_pipelines.tasks import Field
from ray_pipelines.tasks._generation import GenerationParameters, generation_arguments
from ray_pipelines.tasks._replies import ReplyParameters

if TYPE_CHECKING:
    import pyarrow as pa

TEXT_FIELD = Field(
    "text",
    "chat",
    "A prompt, or a chat: a list of messages {role, content} whose content is a text or a list of parts, such as "
    "{type: image, image}, {type: video, video} and {type: text, text}.",
)
IMAGES_FIELD = Field(
    "images",
    "images",
    "An image or a list of images: for the prompt's image tokens, or for the parts of a chat that have type image "
    "and nothing else.",
    required=False,
)
FIELDS_OF_PARTS = {"images": "image", "videos": "video", "audio": "audio"}
"""The field that fills parts of each type which bring no medium of their own."""


class MultimodalParameters(ReplyParameters):
    """Parameters of the tasks that generate text from chats with images."""

    processor_kwargs: Annotated[
        dict[str, Any] | None, pydantic.Field(description="Arguments of the model's processor, e.g. {padding: true}.")
    ] = None
    generate_kwargs: Annotated[
        dict[str, Any] | None,
        pydantic.Field(
            description="Further arguments of `generate`; those that have a name here are the same as by themselves."
        ),
    ] = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _by_their_own_names(cls, values: Any) -> Any:
        """Takes the parameters out of `generate_kwargs` that are parameters by themselves too."""
        nested = values.get("generate_kwargs") if isinstance(values, Mapping) else None
        if not isinstance(nested, Mapping):
            return values
        named = {name: value for name, value in nested.items() if name in GenerationParameters.model_fields}
        for name in sorted(named):
            if values.get(name) is not None:
                raise ValueError(f"generate_kwargs.{name}: is set by itself too. Drop one of them.")
        others = {name: value for name, value in nested.items() if name not in named}
        return {**values, **named, "generate_kwargs": others or None}

    @pydantic.model_validator(mode="after")
    def _names_each_once(self) -> MultimodalParameters:
        if self.return_tensors and "return_full_text" in self.model_fields_set:
            raise ValueError("return_full_text: cannot be set where results are token ids. Drop it.")
        return self


def to_item(fields: Mapping[str, Any]) -> Any:
    """A text, `{text, images, …}`, or the messages of a chat with the row's media in their places.

    Raises:
        InvalidInput: The chat has another number of places than the row has images, videos or recordings.
    """
    text = fields["text"]
    others = {name: value for name, value in fields.items() if name != "text"}
    if isinstance(text, str):
        return {"text": text, **others} if others else text
    for field, kind in FIELDS_OF_PARTS.items():
        media = others.get(field, ())
        media = [media] if field == "audio" and field in others else list(media)
        places = [part for message in text for part in message["content"] if part == {"type": kind}]
        if len(places) != len(media):
            raise InvalidInput(
                f"{field}: expected one for each part of the chat that is {{type: {kind}}} alone, which are "
                f"{len(places)}; got {len(media)}."
            )
        for part, medium in zip(places, media, strict=True):
            part[kind] = medium
    return text


def pipeline_parameters(parameters: MultimodalParameters) -> dict[str, Any]:
    """The pipeline's keyword arguments."""
    own = set(type(parameters).model_fields.keys() - GenerationParameters.model_fields.keys())
    arguments = parameters.model_dump(include=own, exclude_unset=True, exclude_none=True)
    arguments = {name: list(value) if isinstance(value, tuple) else value for name, value in arguments.items()}
    arguments |= generation_arguments(parameters)
    # Only as `stop_sequence` are they handed to `generate` with the tokenizer that it needs for them.
    stops = [arguments.pop(name, None) or [] for name in ("stop_sequence", "stop_strings")]
    texts = [text for stop in stops for text in ([stop] if isinstance(stop, str) else stop)]
    if texts:
        arguments["stop_sequence"] = texts
    arguments.pop("return_tensors", None)
    if parameters.return_tensors:
        arguments["return_tensors"] = True
    else:
        # any-to-any forgets its default where this is set when the pipeline is made.
        arguments["return_full_text"] = parameters.return_full_text
    return arguments


def result_type(parameters: MultimodalParameters) -> pa.DataType:
    """`list<struct<generated_text: string>>`, or of `generated_token_ids: list<int32>` with `return_tensors`."""
    import pyarrow as pa

    if parameters.return_tensors:
        return pa.list_(pa.struct([("generated_token_ids", pa.list_(pa.int32()))]))
    return pa.list_(pa.struct([("generated_text", pa.string())]))


def to_result(result: Any, parameters: MultimodalParameters) -> Any:
    """The texts, of chats the last message's, without what the pipeline echoes of the input."""
    if parameters.return_tensors:
        return [{"generated_token_ids": record["generated_token_ids"].tolist()} for record in result]
    return [{"generated_text": reply_of(record["generated_text"])} for record in result]
