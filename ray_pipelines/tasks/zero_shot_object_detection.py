"""zero-shot-object-detection: boxes of what labels of your own describe, in each image, best first.

A row may bring its own `candidate_labels`; the parameter holds for all other rows. A row whose list is empty has an
empty result.

Put right in `engine/pipelines/zero_shot_object_detection.py`, against transformers 5.23: a row with an empty list
makes its results vanish, and those of all later rows; labels in a string with commas keep their spaces; and each image
goes through the vision tower once per label. OWL-ViT and OWLv2 take all labels of an image in one forward here, which
gives the same boxes; other models (Grounding DINO, where labels of one text influence each other) one label at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import pydantic

from ray_pipelines.tasks import RowCall, Task
from ray_pipelines.tasks._labels import LABELS, LabelParameters, label_arguments, parse_labels
from ray_pipelines.tasks._vision import DETECTIONS_DESCRIPTION, IMAGE, detections


class ZeroShotObjectDetectionParameters(LabelParameters):
    """Parameters of zero-shot-object-detection."""

    threshold: Annotated[
        float, pydantic.Field(ge=0, le=1, description="Leave out objects whose score is not above this.")
    ] = 0.1
    top_k: Annotated[int | None, pydantic.Field(gt=0, description="Keep this many objects at most; null for all.")] = (
        None
    )


def to_item(fields: Mapping[str, Any]) -> Any:
    """The image, with the row's own labels if it has some."""
    if "candidate_labels" not in fields:
        return fields["image"]
    labels = fields["candidate_labels"]
    is_empty = not labels.strip() if isinstance(labels, str) else hasattr(labels, "__len__") and len(labels) == 0
    return RowCall(fields["image"], {"candidate_labels": [] if is_empty else parse_labels(labels)})


TASK = Task(
    name="zero-shot-object-detection",
    summary="Boxes of what labels of your own describe, in each image.",
    inputs=(IMAGE, LABELS),
    parameters=ZeroShotObjectDetectionParameters,
    result_type=detections,
    result_description=f"{DETECTIONS_DESCRIPTION}, best first",
    to_item=to_item,
    pipeline_parameters=label_arguments,
    pipeline_class="ray_pipelines.engine.pipelines.zero_shot_object_detection:ZeroShotObjectDetectionPipeline",
    kept_outputs=("logits", "pred_boxes", "target_size", "candidate_labels", "confidence"),
    chunked=True,
)
