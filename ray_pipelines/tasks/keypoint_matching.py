"""keypoint-matching: points of one image and the same points in another, best matches first.

A bug of transformers 5.23 is put right in `engine/pipelines/keypoint_matching.py`: it scales x by the height of the
image and y by its width, so that points of all but square images are in the wrong place (in a picture of 160 x 40, y
goes up to 150). Pairs run one by one: padding to the pair with the most keypoints changes the matches of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import pydantic

from ray_pipelines.tasks import Field, Parameters, Task
from ray_pipelines.tasks._vision import IMAGE_DESCRIPTION

if TYPE_CHECKING:
    import pyarrow as pa


class KeypointMatchingParameters(Parameters):
    """Parameters of keypoint-matching."""

    threshold: Annotated[
        float, pydantic.Field(ge=0, le=1, description="Leave out matches whose score is not above this.")
    ] = 0.0


def to_item(fields: Mapping[str, Any]) -> list[Any]:
    """The pair of images."""
    return [fields["image_0"], fields["image_1"]]


def result_type(parameters: KeypointMatchingParameters) -> pa.DataType:
    """`list<struct<keypoint_image_0: struct<x, y>, keypoint_image_1: struct<x, y>, score: float>>`."""
    import pyarrow as pa

    point = pa.struct([("x", pa.int32()), ("y", pa.int32())])
    match = [("keypoint_image_0", point), ("keypoint_image_1", point), ("score", pa.float32())]
    return pa.list_(pa.struct(match))


TASK = Task(
    name="keypoint-matching",
    summary="Points of one image and the same points in another.",
    inputs=(
        Field("image_0", "image", f"The first image: {IMAGE_DESCRIPTION}"),
        Field("image_1", "image", "The second image, likewise."),
    ),
    parameters=KeypointMatchingParameters,
    result_type=result_type,
    result_description="list of {keypoint_image_0: {x, y}, keypoint_image_1: {x, y}, score}, best first",
    to_item=to_item,
    pipeline_class="ray_pipelines.engine.pipelines.keypoint_matching:KeypointMatchingPipeline",
    batched=False,
)
