"""What the vision tasks share: how an image is described, and the types of boxes and detections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from ray_pipelines.tasks import Field

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_DESCRIPTION = "encoded bytes, a {bytes, path} struct, a path or URI, or an array."
IMAGE = Field("image", "image", f"The image: {IMAGE_DESCRIPTION}")
DETECTIONS_DESCRIPTION = "list of {score, label, box: {xmin, ymin, xmax, ymax}} in pixels of the image"


def detections(parameters: BaseModel) -> pa.DataType:
    """`list<struct<score: float, label: string, box>>`."""
    import pyarrow as pa

    from ray_pipelines.arrow import BOX_TYPE

    return pa.list_(pa.struct([("score", pa.float32()), ("label", pa.string()), ("box", BOX_TYPE)]))


def no_arguments(parameters: BaseModel) -> dict[str, Any]:
    """No keyword arguments: the parameters concern the result alone."""
    return {}
