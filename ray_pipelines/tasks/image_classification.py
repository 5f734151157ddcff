"""image-classification: a label for each image.

Images are turned upright (EXIF) and to RGB, as in `transformers`; see `ray_pipelines.media.image` for what a column may
hold.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import pydantic

from ray_pipelines.tasks import Field, Parameters, Task
from ray_pipelines.tasks._classification import (
    FUNCTION_TO_APPLY,
    RESULT_DESCRIPTION,
    FunctionToApply,
    label_scores,
    postprocess_logits,
    to_list,
)
from ray_pipelines.tasks._vision import IMAGES_PER_GROUP, preprocess_images


class ImageClassificationParameters(Parameters):
    """Parameters of image-classification."""

    top_k: Annotated[
        int, pydantic.Field(gt=0, description="How many labels to return, best first; more than there are gives all.")
    ] = 5
    function_to_apply: Annotated[FunctionToApply | None, pydantic.Field(description=FUNCTION_TO_APPLY)] = None


TASK = Task(
    name="image-classification",
    summary="A label for each image.",
    inputs=(Field("image", "image", "The image: encoded bytes, a {bytes, path} struct, a path or URI, or an array."),),
    parameters=ImageClassificationParameters,
    result_type=label_scores,
    result_description=RESULT_DESCRIPTION,
    to_result=to_list,
    kept_outputs=("logits",),
    preprocess_many=preprocess_images,
    postprocess_many=partial(postprocess_logits, default_top_k=5),
    group_size=IMAGES_PER_GROUP,
)
