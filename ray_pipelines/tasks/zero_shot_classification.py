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
from ray_pipelines.tasks import Field, Task, require_text
from ray_pipelines.tasks._labels import LABELS, TemplateParameters, label_arguments, with_labels

if TYPE_CHECKING:
    import pyarrow as pa


class ZeroShotClassificationParameters(TemplateParameters):
    """Parameters of zero-shot-classification."""

    hypothesis_template: Annotated[
        str, pydantic.Field(description="What makes a sentence of a label, which takes the place of {}.")
    ] = "This example is {}."
    multi_label: Annotated[
        bool,
        pydantic.Field(
            description="Score each label by itself (several may be true), rather than share a total of 1 among them."
        ),
    ] = False


def to_item(fields: Mapping[str, Any]) -> Any:
    """The text, with the row's own labels if it has some."""
    text = require_text(fields["text"])
    if not text:
        raise InvalidInput("text: expected a text; got an empty string.")
    return with_labels(text, fields)


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
    inputs=(Field("text", "text", "The text."), LABELS),
    parameters=ZeroShotClassificationParameters,
    result_type=result_type,
    result_description="{labels, scores}, best first",
    to_item=to_item,
    to_result=to_result,
    pipeline_parameters=label_arguments,
    pipeline_class="ray_pipelines.engine.pipelines.zero_shot_classification:ZeroShotClassificationPipeline",
    kept_outputs=("candidate_label", "logits"),
    chunked=True,
)
