"""zero-shot-audio-classification: how well labels of your own fit each recording.

Each label is made a hypothesis ("This is a sound of rain.") whose likeness to the sound a model such as CLAP scores. A
row may bring its own `candidate_labels`; the parameter holds for all other rows.

Recordings longer than the model's window are cropped at random, which makes results of transformers differ from run
to run. Put right in `engine/pipelines/zero_shot_audio_classification.py`: where a recording is cropped depends on its
samples alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import pydantic

from ray_pipelines.tasks import Field, Parameters, RowCall, Task
from ray_pipelines.tasks._audio import AUDIO_FIELDS
from ray_pipelines.tasks._classification import RESULT_DESCRIPTION, label_scores
from ray_pipelines.tasks._labels import parse_labels


class ZeroShotAudioClassificationParameters(Parameters):
    """Parameters of zero-shot-audio-classification."""

    candidate_labels: Annotated[
        str | tuple[str, ...] | None,
        pydantic.Field(
            description="The labels to choose from, a list or one string with commas, for rows that bring none of "
            "their own."
        ),
    ] = None
    hypothesis_template: Annotated[
        str, pydantic.Field(description="What makes a hypothesis of a label, which takes the place of {}.")
    ] = "This is a sound of {}."

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
    """The samples, with the row's own labels if it has some."""
    if "candidate_labels" in fields:
        return RowCall(fields["audio"], {"candidate_labels": parse_labels(fields["candidate_labels"])})
    return fields["audio"]


def pipeline_parameters(parameters: ZeroShotAudioClassificationParameters) -> dict[str, Any]:
    """The pipeline's keyword arguments."""
    arguments = parameters.model_dump(exclude_unset=True, exclude_none=True)
    if "candidate_labels" in arguments:
        arguments["candidate_labels"] = list(arguments["candidate_labels"])
    return arguments


TASK = Task(
    name="zero-shot-audio-classification",
    summary="How well labels of your own fit each recording.",
    inputs=(
        *AUDIO_FIELDS,
        Field(
            "candidate_labels",
            "any",
            "The labels of this row, a list or one string with commas; unset, those of the parameter.",
            required=False,
        ),
    ),
    parameters=ZeroShotAudioClassificationParameters,
    result_type=label_scores,
    result_description=RESULT_DESCRIPTION,
    to_item=to_item,
    pipeline_parameters=pipeline_parameters,
    pipeline_class="ray_pipelines.engine.pipelines.zero_shot_audio_classification:ZeroShotAudioClassificationPipeline",
)
