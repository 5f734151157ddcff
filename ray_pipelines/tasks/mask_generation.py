"""mask-generation: masks of everything in an image, without labels (SAM), from a grid of points.

Masks are at the size of the image, in COCO's run-length encoding (see `ray_pipelines.media.masks`). The image, and
each crop of it, is one chunk: it is embedded once, together with crops of other rows, then the model is asked about its
points in batches of `points_per_batch`, and only the run lengths of masks that pass the filters leave the device.
`transformers` embeds the image while it preprocesses, which then needs the device, and cannot take a batch size at all.

A bug of transformers 5.23 is put right in `engine/pipelines/mask_generation.py`: crops with a
`crop_n_points_downscale_factor` other than 1 fail, because grids of different sizes are stacked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import pydantic

from ray_pipelines.tasks import Parameters, Task
from ray_pipelines.tasks._vision import IMAGE

if TYPE_CHECKING:
    import pyarrow as pa


class MaskGenerationParameters(Parameters):
    """Parameters of mask-generation."""

    points_per_batch: Annotated[
        int | None,
        pydantic.Field(gt=0, description="Points that the model is asked about at once; null for all. Changes memory."),
    ] = 64
    points_per_crop: Annotated[
        int, pydantic.Field(gt=0, description="Points along each side of the grid: 32 makes 1024 points.")
    ] = 32
    crops_n_layers: Annotated[
        int,
        pydantic.Field(ge=0, le=6, description="Layers of crops to look at besides the image; layer n has 4**n crops."),
    ] = 0
    crop_overlap_ratio: Annotated[
        float,
        pydantic.Field(ge=0, lt=1, description="Share of the image's shorter side by which crops of layer 1 overlap."),
    ] = 512 / 1500
    crop_n_points_downscale_factor: Annotated[
        int, pydantic.Field(gt=0, description="Layer n has points_per_crop divided by this to the power of n.")
    ] = 1
    pred_iou_thresh: Annotated[
        float, pydantic.Field(ge=0, le=1, description="Leave out masks whose quality the model puts no higher.")
    ] = 0.88
    stability_score_thresh: Annotated[
        float,
        pydantic.Field(
            ge=0, le=1, description="Leave out masks that change more than this when mask_threshold is shifted."
        ),
    ] = 0.95
    stability_score_offset: Annotated[
        float, pydantic.Field(gt=0, description="How far mask_threshold is shifted, up and down, to see that.")
    ] = 1
    mask_threshold: Annotated[
        float, pydantic.Field(description="A pixel belongs to a mask if its logit is above this.")
    ] = 0
    max_hole_area: Annotated[
        float | None, pydantic.Field(ge=0, description="Fill holes of up to this many pixels (SAM 2 and later).")
    ] = None
    max_sprinkle_area: Annotated[
        float | None, pydantic.Field(ge=0, description="Drop specks of up to this many pixels (SAM 2 and later).")
    ] = None
    crops_nms_thresh: Annotated[
        float,
        pydantic.Field(ge=0, le=1, description="Of masks whose boxes overlap more than this (IoU), keep the best."),
    ] = 0.7

    @pydantic.model_validator(mode="after")
    def _points_in_every_layer(self) -> MaskGenerationParameters:
        if self.points_per_crop < self.crop_n_points_downscale_factor**self.crops_n_layers:
            raise ValueError(
                f"points_per_crop: expected at least crop_n_points_downscale_factor to the power of crops_n_layers "
                f"({self.crop_n_points_downscale_factor**self.crops_n_layers}); got {self.points_per_crop}."
            )
        return self


def pipeline_parameters(parameters: MaskGenerationParameters) -> dict[str, Any]:
    """The pipeline's keyword arguments: with run lengths and boxes in the result."""
    return {**parameters.model_dump(exclude_unset=True), "output_rle_mask": True, "output_bboxes_mask": True}


def result_type(parameters: MaskGenerationParameters) -> pa.DataType:
    """`list<struct<mask, score: float, box>>`."""
    import pyarrow as pa

    from ray_pipelines.arrow import BOX_TYPE, RLE_TYPE

    return pa.list_(pa.struct([("mask", RLE_TYPE), ("score", pa.float32()), ("box", BOX_TYPE)]))


def to_result(result: Any, parameters: MaskGenerationParameters) -> Any:
    """One entry per mask, best first."""
    import numpy as np

    rows = zip(result["rle_mask"], result["scores"].tolist(), result["bounding_boxes"].tolist(), strict=True)
    return [
        {
            "mask": {"size": list(rle["size"]), "counts": np.asarray(rle["counts"], dtype=np.int32)},
            "score": score,
            "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), (int(side) for side in box), strict=True)),
        }
        for rle, score, box in rows
    ]


TASK = Task(
    name="mask-generation",
    summary="Masks of everything in an image, without labels.",
    inputs=(IMAGE,),
    parameters=MaskGenerationParameters,
    result_type=result_type,
    result_description="list of {mask: {size: [height, width], counts}, score, box}, best first (COCO run lengths)",
    to_result=to_result,
    pipeline_parameters=pipeline_parameters,
    pipeline_class="ray_pipelines.engine.pipelines.mask_generation:MaskGenerationPipeline",
    chunked=True,
)
