"""image-segmentation: a mask and a label for each segment of an image: semantic, instance or panoptic.

Masks are at the size of the image, in COCO's run-length encoding; `ray_pipelines.media.masks.decode_mask` makes
`bool[height, width]` of one, `ray_pipelines.media.draw.masks_to_image` a picture of all. Semantic segmentation has one
mask per label that occurs, without a score.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic

from ray_pipelines.tasks import Parameters, Task
from ray_pipelines.tasks._vision import IMAGE

if TYPE_CHECKING:
    import pyarrow as pa


class ImageSegmentationParameters(Parameters):
    """Parameters of image-segmentation."""

    subtask: Annotated[
        Literal["panoptic", "instance", "semantic"] | None,
        pydantic.Field(description="What to segment; unset, the first of panoptic, instance, semantic the model can."),
    ] = None
    threshold: Annotated[
        float, pydantic.Field(ge=0, le=1, description="Leave out segments whose score is not above this.")
    ] = 0.9
    mask_threshold: Annotated[
        float, pydantic.Field(ge=0, le=1, description="A pixel belongs to a mask if its probability is above this.")
    ] = 0.5
    overlap_mask_area_threshold: Annotated[
        float,
        pydantic.Field(
            ge=0,
            le=1,
            description="Leave out segments of which other segments cover all but this share.",
        ),
    ] = 0.5


def result_type(parameters: ImageSegmentationParameters) -> pa.DataType:
    """`list<struct<score: float, label: string, mask>>`; `score` is null for semantic segmentation."""
    import pyarrow as pa

    from ray_pipelines.arrow import RLE_TYPE

    return pa.list_(pa.struct([("score", pa.float32()), ("label", pa.string()), ("mask", RLE_TYPE)]))


def to_result(result: Any, parameters: ImageSegmentationParameters) -> Any:
    """The segments with their masks in run-length encoding rather than as pictures."""
    import numpy as np

    from ray_pipelines.media.masks import encode_mask

    return [
        {"score": segment["score"], "label": segment["label"], "mask": encode_mask(np.asarray(segment["mask"]) > 0)}
        for segment in result
    ]


TASK = Task(
    name="image-segmentation",
    summary="A mask and a label for each segment of an image.",
    inputs=(IMAGE,),
    parameters=ImageSegmentationParameters,
    result_type=result_type,
    result_description="list of {score, label, mask: {size: [height, width], counts}} (COCO run lengths)",
    to_result=to_result,
    kept_outputs=(
        "logits",
        "pred_boxes",
        "pred_masks",
        "class_queries_logits",
        "masks_queries_logits",
        "patch_offsets",
        "target_size",
    ),
)
