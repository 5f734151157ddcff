"""What the vision tasks share: how an image is described, and the types of boxes and detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


IMAGES_PER_GROUP = 16


def preprocess_images(pipe: Any, items: Sequence[Any], arguments: Mapping[str, Any]) -> Sequence[Any]:
    """The model inputs of many pictures by one call of the image processor, for pipelines that do nothing else.

    Raises:
        ValueError: The processor does not give one tensor row per picture.
    """
    import torch
    from transformers.image_utils import load_image

    options = {name: value for name, value in arguments.items() if name != "timeout"}
    encoded = pipe.image_processor([load_image(item) for item in items], return_tensors="pt", **options)
    values = dict(encoded.to(pipe.dtype))
    for name, value in values.items():
        if not isinstance(value, torch.Tensor) or len(value) != len(items):
            raise ValueError(f"{name}: expected a row for each of {len(items)} pictures.")
    return [[{name: value[index : index + 1] for name, value in values.items()}] for index in range(len(items))]
