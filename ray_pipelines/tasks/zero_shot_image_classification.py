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

from ray_pipelines.tasks import Field, Parameters, RowCall, Task
from ray_pipelines.tasks._classification import RESULT_DESCRIPTION, label_scores
from ray_pipelines.tasks._labels import parse_labels
from ray_pipelines.tasks._vision import IMAGE


class ZeroShotImageClassificationParameters(Parameters):
    """Parameters of zero-shot-image-classification."""

    candidate_labels: Annotated[
        str | tuple[str, ...] | None,
        pydantic.Field(
            description="The labels to choose from, a list or one string with commas, for rows that bring none of "
            "their own."
        ),
    ] = None
    hypothesis_template: Annotated[
        str, pydantic.Field(description="What makes a sentence of a label, which takes the place of {}.")
    ] = "This is a photo of {}."
    tokenizer_kwargs: Annotated[
        dict[str, Any] | None, pydantic.Field(description="Arguments of the tokenizer's call, e.g. {truncation: true}.")
    ] = None

    @pydantic.field_validator("candidate_labels")
    @classmethod
    def _labels_exist(cls, value: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if value is None else tuple(parse_labels(value))

    @pydantic.field_validator("hypothesis_template")
    @classmethod
    def _template_has_a_place(cls, value: str) -> str:
        try:
            has_place = value.format("label") != value
        except (IndexError, KeyError, ValueError):
            has_place = False
        if not has_place:
            raise ValueError(f"expected a template with one {{}}, where the label goes; got {value!r}.")
        return value


def to_item(fields: Mapping[str, Any]) -> Any:
    """The image, with the row's own labels if it has some."""
    if "candidate_labels" in fields:
        return RowCall(fields["image"], {"candidate_labels": parse_labels(fields["candidate_labels"])})
    return fields["image"]


def pipeline_parameters(parameters: ZeroShotImageClassificationParameters) -> dict[str, Any]:
    """The pipeline's keyword arguments."""
    arguments = parameters.model_dump(exclude_unset=True, exclude={"candidate_labels"})
    if parameters.candidate_labels is not None:
        arguments["candidate_labels"] = list(parameters.candidate_labels)
    return arguments


TASK = Task(
    name="zero-shot-image-classification",
    summary="How well labels of your own fit each image.",
    inputs=(
        IMAGE,
        Field(
            "candidate_labels",
            "any",
            "The labels of this row, a list or one string with commas; unset, those of the parameter.",
            required=False,
        ),
    ),
    parameters=ZeroShotImageClassificationParameters,
    result_type=label_scores,
    result_description=RESULT_DESCRIPTION,
    to_item=to_item,
    pipeline_parameters=pipeline_parameters,
    pipeline_class="ray_pipelines.engine.pipelines.zero_shot_image_classification:ZeroShotImageClassificationPipeline",
    kept_outputs=("logits", "candidate_labels"),
)
