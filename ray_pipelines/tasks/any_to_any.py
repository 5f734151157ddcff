"""any-to-any: what a multimodal model writes about texts, images, videos and recordings.

As image-text-to-text, with videos and recordings too: inside the messages of a chat, or in columns beside a text or a
chat. Rows run one by one. What is generated is text; models that generate images or speech (`generation_mode`) are
refused by name.

Videos are decoded by PyAV, where transformers needs torchcodec. Which frames a model sees, and how many, its own video
processor says, as for a path in transformers; `processor_kwargs` such as {fps: 1} or {num_frames: 8} change that.

A bug of transformers 5.23 that is put right: without `return_full_text` the result differs between a parameter that is
set when the pipeline is made and one set at its call; here a text always has its prompt unless it is switched off.
"""

from __future__ import annotations

from typing import Annotated, Literal

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


class AnyToAnyParameters(MultimodalParameters):
    """Parameters of any-to-any."""

    generation_mode: Annotated[Literal["text"], pydantic.Field(description="What is generated; only text can be.")] = (
        "text"
    )


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
    result_type=result_type,
    result_description="list of {generated_text}, one per returned sequence",
    to_item=to_item,
    to_result=to_result,
    pipeline_parameters=pipeline_parameters,
    pipeline_class="ray_pipelines.engine.pipelines.any_to_any:AnyToAnyPipeline",
    batched=False,
    is_random=is_sampling,
)
