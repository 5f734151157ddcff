"""text-classification: a label for each text, or for each pair of texts.

`transformers` gives `{label, score}` for a text, and a list of them once `top_k` is passed; here a result is always
the list. Unknown arguments, which transformers 5 silently hands to the tokenizer, are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import pydantic

from ray_pipelines.tasks import Field, Task, require_text
from ray_pipelines.tasks._classification import (
    FUNCTION_TO_APPLY,
    RESULT_DESCRIPTION,
    FunctionToApply,
    label_scores,
    postprocess_logits,
    to_list,
)
from ray_pipelines.tasks._tokenizer import TokenizerParameters, preprocess_texts


class TextClassificationParameters(TokenizerParameters):
    """Parameters of text-classification."""

    top_k: Annotated[
        int | None, pydantic.Field(gt=0, description="How many labels to return, best first; null for all.")
    ] = 1
    function_to_apply: Annotated[FunctionToApply | None, pydantic.Field(description=FUNCTION_TO_APPLY)] = None


def to_item(fields: Mapping[str, Any]) -> Any:
    """The text, or the dictionary of a pair of texts."""
    text = require_text(fields["text"])
    if "text_pair" in fields:
        return {"text": text, "text_pair": require_text(fields["text_pair"], "text_pair")}
    return text


TASK = Task(
    name="text-classification",
    aliases=("sentiment-analysis",),
    summary="A label for each text, or for each pair of texts.",
    inputs=(
        Field("text", "text", "The text."),
        Field("text_pair", "text", "A second text, for models of pairs.", required=False),
    ),
    parameters=TextClassificationParameters,
    result_type=label_scores,
    result_description=RESULT_DESCRIPTION,
    to_item=to_item,
    to_result=to_list,
    kept_outputs=("logits",),
    preprocess_many=preprocess_texts,
    postprocess_many=postprocess_logits,
)
