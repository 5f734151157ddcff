"""zero-shot-classification: how well labels that the model was never trained on fit each text.

Each label is made a hypothesis ("This example is sport.") and an NLI model says whether the text entails it: one chunk
per label, so that the pairs of many rows share a forward. A row may bring its own `candidate_labels`; the parameter
holds for all other rows.

Two bugs of transformers 5.23 are put right in `engine/pipelines/zero_shot_classification.py`: scores are NaN where a
logit is above 88, because the exponential is taken without subtracting the maximum, and a string of labels that a row
brings is not split at its commas but read as a list of characters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import pydantic

from ray_pipelines.errors import InvalidInput
from ray_pipelines.tasks import Field, Parameters, RowCall, Task, require_text
from ray_pipelines.tasks._labels import parse_labels

if TYPE_CHECKING:
    import pyarrow as pa


class ZeroShotClassificationParameters(Parameters):
    """Parameters of zero-shot-classification."""

    candidate_labels: Annotated[
        str | tuple[str, ...] | None,
        pydantic.Field(
            description="The labels to choose from, a list or one string with commas, for rows that bring none of "
            "their own."
        ),
    ] = None
    hypothesis_template: Annotated[
        str, pydantic.Field(description="What makes a hypothesis of a label, which takes the place of {}.")
    ] = "This example is {}."
    multi_label: Annotated[
        bool,
        pydantic.Field(
            description="Score each label by itself (several may be true), rather than share a total of 1 among them."
        ),
    ] = False

    @pydantic.field_validator("candidate_labels")
    @classmethod
    def _labels_exist(cls, value: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is None:
            return None
        labels = value.split(",") if isinstance(value, str) else value
        if not any(label.strip() for label in labels):
            raise ValueError(f"expected at least one label; got {value!r}.")
        return tuple(parse_labels(value))

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
    """The text, with the row's own labels if it has some."""
    text = require_text(fields["text"])
    if not text:
        raise InvalidInput("text: expected a text; got an empty string.")
    if "candidate_labels" in fields:
        return RowCall(text, {"candidate_labels": parse_labels(fields["candidate_labels"])})
    return text


def pipeline_parameters(parameters: ZeroShotClassificationParameters) -> dict[str, Any]:
    """The pipeline's keyword arguments."""
    arguments = parameters.model_dump(exclude_unset=True)
    if parameters.candidate_labels is not None:
        arguments["candidate_labels"] = list(parameters.candidate_labels)
    else:
        arguments.pop("candidate_labels", None)
    return arguments


def result_type(parameters: ZeroShotClassificationParameters) -> pa.DataType:
    """`struct<labels: list<string>, scores: list<float>>`, both in the same order."""
    import pyarrow as pa

    return pa.struct([("labels", pa.list_(pa.string())), ("scores", pa.list_(pa.float32()))])


def to_result(result: Any, parameters: ZeroShotClassificationParameters) -> Any:
    """Labels and scores without the text, which the row has anyway."""
    return {"labels": result["labels"], "scores": result["scores"]}


TASK = Task(
    name="zero-shot-classification",
    summary="How well labels of your own fit each text.",
    inputs=(
        Field("text", "text", "The text."),
        Field(
            "candidate_labels",
            "any",
            "The labels of this row, a list or one string with commas; unset, those of the parameter.",
            required=False,
        ),
    ),
    parameters=ZeroShotClassificationParameters,
    result_type=result_type,
    result_description="{labels, scores}, best first",
    to_item=to_item,
    to_result=to_result,
    pipeline_parameters=pipeline_parameters,
    pipeline_class="ray_pipelines.engine.pipelines.zero_shot_classification:ZeroShotClassificationPipeline",
    kept_outputs=("candidate_label", "logits"),
)
