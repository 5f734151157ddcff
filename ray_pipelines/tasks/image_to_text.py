"""image-to-text: a caption for each image.

transformers 5 dropped the task and sends its name on to image-text-to-text, which is another (it needs a text for each
image, and a processor that captioning models do not have); here the captioning task is written anew, with the
parameters and the default model of 4.57 and more. Large models that chat about images belong to image-text-to-text.

`prompt` is the beginning of the caption, and is part of the result (BLIP, GIT), or a question (Pix2Struct, BLIP-2);
a row may have its own. A vision-encoder-decoder takes none.

Put right in `engine/pipelines/image_to_text.py`, where transformers 4.57

- continues after the padding where prompts of a batch have different lengths (BLIP);
- shows BLIP-2 no image beside a prompt;
- lets the default `max_new_tokens` overrule a `max_length` that the user sets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import pydantic

from ray_pipelines.tasks import Field, RowCall, Task, require_text
from ray_pipelines.tasks._generation import generation_arguments
from ray_pipelines.tasks._image_text import IMAGE, ImageTextParameters, draws_numbers

if TYPE_CHECKING:
    import pyarrow as pa

PROMPT = "The beginning of the caption, or a question to models that answer."


class ImageToTextParameters(ImageTextParameters):
    """Parameters of image-to-text."""

    prompt: Annotated[str | None, pydantic.Field(description=f"{PROMPT} For all rows that have none of their own.")] = (
        None
    )


def to_item(fields: Mapping[str, Any]) -> Any:
    """The image, with the row's own prompt if it has one."""
    if fields.get("prompt") is None:
        return fields["image"]
    return RowCall(fields["image"], {"prompt": require_text(fields["prompt"], "prompt")})


def pipeline_parameters(parameters: ImageToTextParameters) -> dict[str, Any]:
    """The pipeline's keyword arguments."""
    own = parameters.model_dump(include={"prompt", "generate_kwargs"}, exclude_unset=True)
    return {**generation_arguments(parameters), **own}


def result_type(parameters: ImageToTextParameters) -> pa.DataType:
    """`list<struct<generated_text: string>>`."""
    import pyarrow as pa

    return pa.list_(pa.struct([("generated_text", pa.string())]))


TASK = Task(
    name="image-to-text",
    summary="A caption for each image.",
    inputs=(IMAGE, Field("prompt", "text", PROMPT, required=False)),
    parameters=ImageToTextParameters,
    result_type=result_type,
    result_description="list of {generated_text}; one, or num_return_sequences of them",
    to_item=to_item,
    pipeline_parameters=pipeline_parameters,
    pipeline_class="ray_pipelines.engine.pipelines.image_to_text:ImageToTextPipeline",
    is_random=draws_numbers,
)
