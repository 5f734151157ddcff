"""image-text-to-text: what a vision-language model writes about images and a text, or replies to a chat with images.

Images stand inside the messages of a chat, or beside the text (or the chat) in a column of their own. Results hold
texts only; transformers echoes the input with its images. For a chat, `generated_text` is the assistant's message.
Chats may hold videos and recordings too, if the model takes them; videos are decoded by PyAV, where transformers needs
torchcodec.

Rows share a forward whatever the lengths of their prompts, as in text-generation, if their images are of equal shape,
and for models that take patches of pixels (Qwen's) whatever their shapes. Images are RGB without transparency, in chats
too, where transformers lays them on white.

Bugs of transformers 5.23 that are put right: a list of `{images, text}` rows is taken for a chat and refused; lists of
images and texts run as one forward whatever the batch size; arguments of `generate` such as `num_beams` are silently
ignored in a call, where they reach the processor.
"""

from __future__ import annotations

from ray_pipelines.tasks import Task
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


class ImageTextToTextParameters(MultimodalParameters):
    """Parameters of image-text-to-text."""


TASK = Task(
    name="image-text-to-text",
    summary="What a vision-language model writes about images and a text, or replies to a chat with images.",
    inputs=(TEXT_FIELD, IMAGES_FIELD),
    parameters=ImageTextToTextParameters,
    result_type=result_type,
    result_description="list of {generated_text}, one per returned sequence",
    to_item=to_item,
    to_result=to_result,
    pipeline_parameters=pipeline_parameters,
    pipeline_class="ray_pipelines.engine.pipelines.image_text_to_text:ImageTextToTextPipeline",
    is_random=is_sampling,
)
