"""image-to-image: a larger or cleaner image made of each image, such as by Swin2SR.

transformers 5 dropped the task; it is written here, with the default model of 4.57. Put right in
`engine/pipelines/image_to_image.py`: 4.57 leaves the padding in the result that the image processor adds (20 x 20
pixels enlarged twice came as 48 x 48; it is 40 x 40 here), fails for a batch of images of different sizes, and for
models of one channel (they get and give grey images here). Its parameter `head_mask` never worked, and is gone.

Only images of equal padded size share a forward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray_pipelines.tasks import Parameters, Task
from ray_pipelines.tasks._image_text import IMAGE

if TYPE_CHECKING:
    import pyarrow as pa


class ImageToImageParameters(Parameters):
    """Image-to-image has no parameters."""


def result_type(parameters: ImageToImageParameters) -> pa.DataType:
    """`struct<bytes: binary, path: string>`, as Hugging Face datasets hold an image."""
    from ray_pipelines.arrow import IMAGE_TYPE

    return IMAGE_TYPE


def to_result(result: Any, parameters: ImageToImageParameters) -> dict[str, bytes | None]:
    """The image as PNG."""
    from ray_pipelines.media.image import encode_image

    return encode_image(result)


TASK = Task(
    name="image-to-image",
    summary="A larger or cleaner image made of each image.",
    inputs=(IMAGE,),
    parameters=ImageToImageParameters,
    result_type=result_type,
    result_description="a PNG in {bytes, path}; path is null",
    to_result=to_result,
    pipeline_class="ray_pipelines.engine.pipelines.image_to_image:ImageToImagePipeline",
)
