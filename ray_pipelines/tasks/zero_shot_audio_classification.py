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

from ray_pipelines.tasks import Task
from ray_pipelines.tasks._audio import AUDIO_FIELDS
from ray_pipelines.tasks._classification import RESULT_DESCRIPTION, label_scores
from ray_pipelines.tasks._labels import LABELS, TemplateParameters, label_arguments, with_labels


class ZeroShotAudioClassificationParameters(TemplateParameters):
    """Parameters of zero-shot-audio-classification."""

    hypothesis_template: Annotated[
        str, pydantic.Field(description="What makes a sentence of a label, which takes the place of {}.")
    ] = "This is a sound of {}."


def to_item(fields: Mapping[str, Any]) -> Any:
    """The samples, with the row's own labels if it has some."""
    return with_labels(fields["audio"], fields)


TASK = Task(
    name="zero-shot-audio-classification",
    summary="How well labels of your own fit each recording.",
    inputs=(*AUDIO_FIELDS, LABELS),
    parameters=ZeroShotAudioClassificationParameters,
    result_type=label_scores,
    result_description=RESULT_DESCRIPTION,
    to_item=to_item,
    pipeline_parameters=label_arguments,
    pipeline_class="ray_pipelines.engine.pipelines.zero_shot_audio_classification:ZeroShotAudioClassificationPipeline",
)
