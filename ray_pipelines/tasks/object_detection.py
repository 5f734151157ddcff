"""object-detection: a box and a label for each object in an image.

Processors that keep the aspect ratio (DETR, YOLOS) make inputs of many shapes; images of one shape share a forward,
where `transformers` stops with an error. Boxes are whole pixels of the image as it is in the column (turned upright),
cut towards zero; they may lie partly outside of it, as the model says. DETR-like models list objects in the order of
their queries, not by score.
"""

from __future__ import annotations

from typing import Annotated

import pydantic

from ray_pipelines.tasks import Parameters, Task
from ray_pipelines.tasks._vision import DETECTIONS_DESCRIPTION, IMAGE, detections


class ObjectDetectionParameters(Parameters):
    """Parameters of object-detection."""

    threshold: Annotated[
        float, pydantic.Field(ge=0, le=1, description="Leave out objects whose score is not above this.")
    ] = 0.5


OF_DOCUMENTS = ("out_masks", "order_logits", "relative_order_logits", "successor_order_logits")
"""What the processors of models that read the layout of documents look at."""

TASK = Task(
    name="object-detection",
    summary="A box and a label for each object in an image.",
    inputs=(IMAGE,),
    parameters=ObjectDetectionParameters,
    result_type=detections,
    result_description=DETECTIONS_DESCRIPTION,
    kept_outputs=("logits", "pred_boxes", "target_size", "bbox", *OF_DOCUMENTS),
    sequence_outputs=("bbox",),
)
