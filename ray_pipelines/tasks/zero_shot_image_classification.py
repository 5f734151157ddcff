"""zero-shot-image-classification: how well labels that the model was never trained on fit each image.

A row may bring its own `candidate_labels`; the parameter holds for all other rows. Rows of one forward share the text
tower's work: each distinct label is encoded once per forward, not once per image.

Three bugs of transformers 5.23 are put right in `engine/pipelines/zero_shot_image_classification.py`: rows with
different labels in one batch are all scored against the labels of the first, a string of labels is read as a list of
characters, and `tokenizer_kwargs` are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import pydantic

from ray_pipelines.tasks import Task
from ray_pipelines.tasks._classification import RESULT_DESCRIPTION, label_scores
from ray_pipelines.tasks._labels import LABELS, TemplateParameters, label_arguments, with_labels
from ray_pipelines.tasks._vision import IMAGE


class ZeroShotImageClassificationParameters(TemplateParameters):
    """Parameters of zero-shot-image-classification."""

    hypothesis_template: Annotated[
        str, pydantic.Field(description="What makes a sentence of a label, which takes the place of {}.")
    ] = "This is a photo of {}."
    tokenizer_kwargs: Annotated[
        dict[str, Any] | None, pydantic.Field(description="Arguments of the tokenizer's call, e.g. {truncation: true}.")
    ] = None


def to_item(fields: Mapping[str, Any]) -> Any:
    """The image, with the row's own labels if it has some."""
    return with_labels(fields["image"], fields)


TASK = Task(
    name="zero-shot-image-classification",
    summary="How well labels of your own fit each image.",
    inputs=(IMAGE, LABELS),
    parameters=ZeroShotImageClassificationParameters,
    result_type=label_scores,
    result_description=RESULT_DESCRIPTION,
    to_item=to_item,
    pipeline_parameters=label_arguments,
    pipeline_class="ray_pipelines.engine.pipelines.zero_shot_image_classification:ZeroShotImageClassificationPipeline",
    kept_outputs=("logits", "candidate_labels"),
)
