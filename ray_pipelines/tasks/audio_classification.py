"""audio-classification: a label for each recording.

Recordings are decoded by soundfile, mixed to one channel and resampled to the model's rate by soxr; neither an ffmpeg
binary nor torchaudio is needed. Without `top_k` the five best labels are returned, as documented;
`transformers` overwrites that default at each call and returns all.
"""

from __future__ import annotations

from typing import Annotated

import pydantic

from ray_pipelines.tasks import Parameters, Task
from ray_pipelines.tasks._audio import AUDIO_FIELDS
from ray_pipelines.tasks._classification import (
    FUNCTION_TO_APPLY,
    RESULT_DESCRIPTION,
    FunctionToApply,
    label_scores,
    to_list,
)


class AudioClassificationParameters(Parameters):
    """Parameters of audio-classification."""

    top_k: Annotated[
        int | None, pydantic.Field(gt=0, description="How many labels to return, best first; null for all.")
    ] = 5
    function_to_apply: Annotated[FunctionToApply | None, pydantic.Field(description=FUNCTION_TO_APPLY)] = None


TASK = Task(
    name="audio-classification",
    summary="A label for each recording.",
    inputs=AUDIO_FIELDS,
    parameters=AudioClassificationParameters,
    result_type=label_scores,
    result_description=RESULT_DESCRIPTION,
    to_item=lambda fields: fields["audio"],
    to_result=to_list,
    pipeline_class="ray_pipelines.engine.pipelines.audio_classification:AudioClassificationPipeline",
    kept_outputs=("logits",),
)
