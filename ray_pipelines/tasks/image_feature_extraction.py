"""image-feature-extraction: what the model makes of each image: a vector per position, or one for the whole image.

`transformers` gives `[1][positions][hidden]` as nested Python lists, or whatever axes the model has. Here a result is a
float32 array `[positions, hidden]`, also for convolutional models, whose maps `[hidden, height, width]` are read row by
row; or `[hidden]` with `pool`. Only the output that is asked for leaves the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import pydantic

from ray_pipelines.tasks import Parameters, Task
from ray_pipelines.tasks._precision import Precision, number_type
from ray_pipelines.tasks._vision import IMAGE, IMAGES_PER_GROUP, preprocess_images

if TYPE_CHECKING:
    import pyarrow as pa


class ImageFeatureExtractionParameters(Parameters):
    """Parameters of image-feature-extraction."""

    pool: Annotated[
        bool, pydantic.Field(description="One vector for the whole image, by the model's own pooler; it must have one.")
    ] = False
    precision: Precision = "float32"
    image_processor_kwargs: Annotated[
        dict[str, Any] | None,
        pydantic.Field(description="Arguments of the image processor's call, e.g. {do_center_crop: false}."),
    ] = None


def pipeline_parameters(parameters: ImageFeatureExtractionParameters) -> dict[str, Any]:
    """The pipeline's keyword arguments: a tensor rather than nested lists as result."""
    return {**parameters.model_dump(exclude_unset=True, exclude={"precision"}), "return_tensors": True}


def result_type(parameters: ImageFeatureExtractionParameters) -> pa.DataType:
    """`list<float>` of length hidden with `pool`, else `list<list<float>>` of positions by hidden."""
    import pyarrow as pa

    vector = pa.list_(number_type(parameters.precision))
    return vector if parameters.pool else pa.list_(vector)


def to_result(result: Any, parameters: ImageFeatureExtractionParameters) -> Any:
    """The features as a numpy array: `[positions, hidden]`, or `[hidden]` with `pool`.

    Args:
        result: `[1, positions, hidden]`, `[1, hidden, height, width]` or `[1, hidden]`, of the model's dtype.
        parameters: Say whether the features are pooled.
    """
    import numpy as np

    features = result[0].float().numpy()
    if parameters.pool:
        features = features.reshape(-1)
    elif features.ndim == 3:
        features = features.reshape(len(features), -1).T
    elif features.ndim == 1:
        features = features[None]
    return np.ascontiguousarray(features, dtype=parameters.precision)


TASK = Task(
    name="image-feature-extraction",
    summary="The model's features of each image: a vector per position, or one for the whole image.",
    inputs=(IMAGE,),
    parameters=ImageFeatureExtractionParameters,
    result_type=result_type,
    result_description="float32[hidden] with pool, else float32[positions, hidden]",
    to_result=to_result,
    pipeline_parameters=pipeline_parameters,
    pipeline_class="ray_pipelines.engine.pipelines.image_feature_extraction:ImageFeatureExtractionPipeline",
    preprocess_many=preprocess_images,
    group_size=IMAGES_PER_GROUP,
)
