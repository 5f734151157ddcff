"""fill-mask: the likeliest tokens for each mask in a text.

`transformers` gives a list of candidates, or a list of such lists if the text has several masks. Here a result always
is one list of candidates per mask. A text without a mask is a dead letter, not the end of the job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import pydantic

from ray_pipelines.tasks import Field, Parameters, Task, require_text
from ray_pipelines.tasks._tokenizer import preprocess_texts

if TYPE_CHECKING:
    import pyarrow as pa


class FillMaskParameters(Parameters):
    """Parameters of fill-mask."""

    top_k: Annotated[
        int,
        pydantic.Field(gt=0, description="How many candidates to return for each mask; more than there are gives all."),
    ] = 5
    targets: Annotated[
        str | tuple[str, ...] | None,
        pydantic.Field(description="Score only these words, rather than the whole vocabulary."),
    ] = None
    tokenizer_kwargs: Annotated[
        dict[str, Any] | None, pydantic.Field(description="Arguments of the tokenizer's call, e.g. {truncation: true}.")
    ] = None


def to_item(fields: Mapping[str, Any]) -> str:
    """The text."""
    return require_text(fields["text"])


def pipeline_parameters(parameters: FillMaskParameters) -> dict[str, Any]:
    """The pipeline's keyword arguments."""
    arguments = parameters.model_dump(exclude_unset=True)
    if isinstance(parameters.targets, tuple):
        arguments["targets"] = list(parameters.targets)
    return arguments


def result_type(parameters: FillMaskParameters) -> pa.DataType:
    """`list<list<struct<score, token, token_str, sequence>>>`: one inner list per mask."""
    import pyarrow as pa

    candidate = [
        ("score", pa.float32()),
        ("token", pa.int32()),
        ("token_str", pa.string()),
        ("sequence", pa.string()),
    ]
    return pa.list_(pa.list_(pa.struct(candidate)))


def to_result(result: Any, parameters: FillMaskParameters) -> Any:
    """The candidates nested by mask, also where there is a single mask."""
    return [result] if result and isinstance(result[0], dict) else result


def preprocess_many(pipe: Any, items: Sequence[Any], arguments: Mapping[str, Any]) -> Sequence[Any]:
    """The model inputs of many texts; a text without a mask is left to the pipeline, which says what is wrong."""
    made = preprocess_texts(pipe, items, arguments.get("tokenizer_kwargs") or {})
    mask = pipe.tokenizer.mask_token_id
    return [chunks if chunks and bool((chunks[0]["input_ids"] == mask).any()) else None for chunks in made]


TASK = Task(
    name="fill-mask",
    summary="The likeliest tokens for each mask in a text.",
    inputs=(Field("text", "text", "A text with at least one mask token of the model, such as [MASK]."),),
    parameters=FillMaskParameters,
    result_type=result_type,
    result_description="one list per mask of {score, token, token_str, sequence}",
    to_item=to_item,
    to_result=to_result,
    pipeline_parameters=pipeline_parameters,
    pipeline_class="ray_pipelines.engine.pipelines.fill_mask:FillMaskPipeline",
    kept_outputs=("logits", "input_ids"),
    sequence_outputs=("logits", "input_ids"),
    preprocess_many=preprocess_many,
)
