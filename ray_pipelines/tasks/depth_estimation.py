"""depth-estimation: a depth for each pixel of an image, and a picture of it.

`predicted_depth` is what the model says (metres, or relative or inverse depth: see its card) at the size of the image;
`depth` is the same scaled to 0…255 in an 8-bit PNG. A photograph of 12 megapixels makes 48 MB of float32: take
`precision: float16` for half of it, and `with_picture: false` where nobody looks.

Two bugs of transformers 5.23 are put right in `engine/pipelines/depth_estimation.py`: the picture of a constant depth
divides by zero (it is black here), and models in bfloat16 cannot be converted to numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import pydantic

from ray_pipelines.tasks import Parameters, Task
from ray_pipelines.tasks._precision import Precision, number_type
from ray_pipelines.tasks._vision import IMAGE, no_arguments

if TYPE_CHECKING:
    import pyarrow as pa


class DepthEstimationParameters(Parameters):
    """Parameters of depth-estimation."""

    precision: Precision = "float32"
    with_picture: Annotated[bool, pydantic.Field(description="Make the 8-bit picture `depth`; if not, it is null.")] = (
        True
    )


def result_type(parameters: DepthEstimationParameters) -> pa.DataType:
    """`struct<predicted_depth: struct<shape: list<int32>, data: list<float>>, depth: struct<bytes, path>>`."""
    import pyarrow as pa

    from ray_pipelines.arrow import IMAGE_TYPE

    numbers = pa.list_(number_type(parameters.precision))
    depth = pa.struct([("shape", pa.list_(pa.int32())), ("data", numbers)])
    return pa.struct([("predicted_depth", depth), ("depth", IMAGE_TYPE)])


def to_result(result: Any, parameters: DepthEstimationParameters) -> Any:
    """The depth as its shape and `data[height * width]`, row by row, and the picture as PNG."""
    from ray_pipelines.media.image import encode_image

    depth = result["predicted_depth"].float().numpy()
    return {
        "predicted_depth": {"shape": list(depth.shape), "data": depth.ravel().astype(parameters.precision)},
        "depth": encode_image(result["depth"]) if parameters.with_picture else None,
    }


TASK = Task(
    name="depth-estimation",
    summary="A depth for each pixel of an image.",
    inputs=(IMAGE,),
    parameters=DepthEstimationParameters,
    result_type=result_type,
    result_description="{predicted_depth: {shape: [height, width], data}, depth: PNG in {bytes, path}}",
    to_result=to_result,
    pipeline_parameters=no_arguments,
    pipeline_class="ray_pipelines.engine.pipelines.depth_estimation:DepthEstimationPipeline",
    kept_outputs=("predicted_depth", "field_of_view", "target_size"),
)
