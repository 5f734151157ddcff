"""video-classification: a label for each video.

Videos are decoded by PyAV, and only the frames that the model looks at are converted; `transformers` 5.23 needs
torchcodec and takes paths and URLs only, here a column may hold encoded bytes too.

`num_frames` are spread evenly over the video, as in transformers 5. Its `frame_sampling_rate` is documented but ignored
there; here, as in 4.57, it takes every n-th frame from the start of the video
(`engine/pipelines/video_classification.py`).
"""

from __future__ import annotations

from typing import Annotated

import pydantic

from ray_pipelines.tasks import Field, Parameters, Task
from ray_pipelines.tasks._classification import (
    FUNCTION_TO_APPLY,
    RESULT_DESCRIPTION,
    FunctionToApply,
    label_scores,
)


class VideoClassificationParameters(Parameters):
    """Parameters of video-classification."""

    num_frames: Annotated[
        int | None, pydantic.Field(gt=0, description="Frames to look at; unset, as many as the model was made for.")
    ] = None
    frame_sampling_rate: Annotated[
        int | None,
        pydantic.Field(
            gt=0,
            description="Take every n-th frame from the start of the video; unset, frames are spread over all of it.",
        ),
    ] = None
    top_k: Annotated[
        int, pydantic.Field(gt=0, description="How many labels to return, best first; more than there are gives all.")
    ] = 5
    function_to_apply: Annotated[FunctionToApply | None, pydantic.Field(description=FUNCTION_TO_APPLY)] = None


TASK = Task(
    name="video-classification",
    summary="A label for each video.",
    inputs=(
        Field(
            "video",
            "video",
            "The video: encoded bytes, a {bytes, path} struct, a path or URI, or uint8[frames, height, width, 3].",
        ),
    ),
    parameters=VideoClassificationParameters,
    result_type=label_scores,
    result_description=RESULT_DESCRIPTION,
    pipeline_class="ray_pipelines.engine.pipelines.video_classification:VideoClassificationPipeline",
    kept_outputs=("logits",),
)
