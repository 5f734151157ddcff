"""any-to-any: what a multimodal model writes about texts, images, videos and recordings.

As image-text-to-text, with videos and recordings too: inside the messages of a chat, or in columns beside a text or a
chat. What is generated is text, or with `generation_mode: image` pictures, row by row, by models such as Janus.
`generation_mode: audio` is refused: such models return texts beside the sound, and do not say its rate.

Videos are decoded by PyAV, where transformers needs torchcodec. Which frames a model sees, and how many, its own video
processor says, as for a path in transformers; `processor_kwargs` such as {fps: 1} or {num_frames: 8} change that.

Bugs of transformers 5.23 that are put right: without `return_full_text` the result differs between a parameter that is
set when the pipeline is made and one set at its call; here a text always has its prompt unless it is switched off. With
`generation_mode: image` its processor is not told, and its image processor fails on what it has to return.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic

from ray_pipelines.tasks import Field, Task
from ray_pipelines.tasks._generation import is_sampling
from ray_pipelines.tasks._multimodal import (
    IMAGES_FIELD,
    TEXT_FIELD,
    MultimodalParameters,
    pipeline_parameters,
    result_type,
    to_item,
    to_result,
)

if TYPE_CHECKING:
    import pyarrow as pa

OF_TEXTS = frozenset(
    {"return_full_text", "return_tensors", "skip_special_tokens", "clean_up_tokenization_spaces", "stop_sequence"}
)


class AnyToAnyParameters(MultimodalParameters):
    """Parameters of any-to-any."""

    generation_mode: Annotated[
        Literal["text", "image"], pydantic.Field(description="What is generated, by models that can do both.")
    ] = "text"

    @pydantic.model_validator(mode="after")
    def _pictures_are_no_text(self) -> AnyToAnyParameters:
        if self.generation_mode == "image":
            for name in sorted(self.model_fields_set & OF_TEXTS):
                raise ValueError(f"{name}: is about texts; got it beside generation_mode: image. Drop it.")
        return self


def arguments(parameters: AnyToAnyParameters) -> dict[str, Any]:
    """The pipeline's keyword arguments."""
    found = pipeline_parameters(parameters)
    if parameters.generation_mode == "image":
        found.pop("return_full_text", None)
    return found


def type_of_results(parameters: AnyToAnyParameters) -> pa.DataType:
    """As of texts, or `list<struct<generated_image: struct<bytes, path>>>`."""
    if parameters.generation_mode != "image":
        return result_type(parameters)
    import pyarrow as pa

    from ray_pipelines.arrow import IMAGE_TYPE

    return pa.list_(pa.struct([("generated_image", IMAGE_TYPE)]))


def results(result: Any, parameters: AnyToAnyParameters) -> Any:
    """The texts, or the pictures as PNG."""
    if parameters.generation_mode != "image":
        return to_result(result, parameters)
    from ray_pipelines.media.image import encode_image

    return [{"generated_image": encode_image(record["generated_image"])} for record in result]


TASK = Task(
    name="any-to-any",
    summary="What a multimodal model writes about texts, images, videos and recordings.",
    inputs=(
        TEXT_FIELD,
        IMAGES_FIELD,
        Field(
            "videos",
            "videos",
            "A video or a list of videos (encoded bytes, {bytes, path} structs, paths, or uint8[frames, height, width, "
            "3]): for the prompt's video tokens, or for the parts of a chat that have type video and nothing else.",
            required=False,
        ),
        Field(
            "audio",
            "audio",
            "A recording: for the prompt's audio token, or for the part of a chat that is {type: audio} alone.",
            required=False,
        ),
    ),
    parameters=AnyToAnyParameters,
    result_type=type_of_results,
    result_description="list of {generated_text} or {generated_image}, one per returned sequence",
    to_item=to_item,
    to_result=results,
    pipeline_parameters=arguments,
    pipeline_class="ray_pipelines.engine.pipelines.any_to_any:AnyToAnyPipeline",
    is_random=is_sampling,
)
