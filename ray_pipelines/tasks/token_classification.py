"""token-classification: labels for the tokens of each text, or the entities that they form.

With an `aggregation_strategy` a result is a list of entities under `entity_group`, without one a list of tokens under
`entity`, as in `transformers`. `word` is the decoded token or group; the exact text is `text[start:end]`.

A text longer than the model is cut without a word, as in `transformers`, unless `stride` is given: then it is split
into overlapping chunks whose entities are merged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic

from ray_pipelines.errors import InvalidInput
from ray_pipelines.tasks import Field, Parameters, Task, require_text
from ray_pipelines.tasks._tokenizer import tokenize_many

if TYPE_CHECKING:
    import pyarrow as pa


class TokenClassificationParameters(Parameters):
    """Parameters of token-classification."""

    aggregation_strategy: Annotated[
        Literal["none", "simple", "first", "average", "max"],
        pydantic.Field(
            description="How tokens form entities: not at all, by their B-/I- labels, or by whole words that take the "
            "label of their first token, of the average or of the maximum."
        ),
    ] = "none"
    ignore_labels: Annotated[tuple[str, ...], pydantic.Field(description="Labels to leave out of the result.")] = ("O",)
    stride: Annotated[
        int | None,
        pydantic.Field(
            ge=0,
            description="Split texts longer than the model into chunks that overlap by this many tokens; needs an "
            "aggregation_strategy.",
        ),
    ] = None
    is_split_into_words: Annotated[bool, pydantic.Field(description="Rows are lists of words, not texts.")] = False
    delimiter: Annotated[
        str | None, pydantic.Field(description="What joins the words of a split text (a space by default).")
    ] = None

    @pydantic.model_validator(mode="after")
    def _stride_needs_aggregation(self) -> TokenClassificationParameters:
        if self.stride is not None and self.aggregation_strategy == "none":
            raise ValueError(
                'stride: expected an aggregation_strategy beside it; got "none". Set it to "simple", for example.'
            )
        if self.delimiter is not None and not self.is_split_into_words:
            raise ValueError(
                "delimiter: expected is_split_into_words beside it. Set it to true, or drop the delimiter."
            )
        return self


def to_item(fields: Mapping[str, Any]) -> Any:
    """The text, or the list of its words."""
    value = fields["text"]
    if isinstance(value, list | tuple):
        if not all(isinstance(word, str) for word in value):
            raise InvalidInput("text: expected a list of strings; got a list with other values.")
        return list(value)
    return require_text(value)


def pipeline_parameters(parameters: TokenClassificationParameters) -> dict[str, Any]:
    """The pipeline's keyword arguments."""
    arguments = parameters.model_dump(exclude_unset=True, exclude={"ignore_labels"})
    if "ignore_labels" in parameters.model_fields_set:
        arguments["ignore_labels"] = list(parameters.ignore_labels)
    return arguments


def result_type(parameters: TokenClassificationParameters) -> pa.DataType:
    """A list of tokens (`entity`, `index`), or of entities (`entity_group`) with an aggregation strategy."""
    import pyarrow as pa

    span = [("word", pa.string()), ("start", pa.int32()), ("end", pa.int32())]
    if parameters.aggregation_strategy == "none":
        return pa.list_(pa.struct([("entity", pa.string()), ("score", pa.float32()), ("index", pa.int32()), *span]))
    return pa.list_(pa.struct([("entity_group", pa.string()), ("score", pa.float32()), *span]))


def to_result(result: Any, parameters: TokenClassificationParameters) -> Any:
    """The entities with scores as Python floats."""
    return [{**entity, "score": float(entity["score"])} for entity in result]


def preprocess_many(pipe: Any, items: Sequence[Any], arguments: Mapping[str, Any]) -> Sequence[Any]:
    """The model inputs of many texts; lists of words and texts in chunks are left to the pipeline."""
    options = arguments.get("tokenizer_params") or {}
    if arguments.get("is_split_into_words") or options or not all(isinstance(item, str) for item in items):
        return [None] * len(items)
    limit = pipe.tokenizer.model_max_length
    chunks = tokenize_many(
        pipe.tokenizer,
        items,
        truncation=bool(limit and limit > 0),
        return_special_tokens_mask=True,
        return_offsets_mapping=True,
    )
    return [[{**chunk, "sentence": text, "is_last": True}] for chunk, text in zip(chunks, items, strict=True)]


TASK = Task(
    name="token-classification",
    aliases=("ner",),
    summary="Labels for the tokens of each text, or the entities that they form.",
    inputs=(Field("text", "text", "The text, or the list of its words (with is_split_into_words)."),),
    parameters=TokenClassificationParameters,
    result_type=result_type,
    result_description="list of {entity, score, index, word, start, end}, or {entity_group, score, word, start, end}",
    to_item=to_item,
    to_result=to_result,
    pipeline_parameters=pipeline_parameters,
    pipeline_class="ray_pipelines.engine.pipelines.token_classification:TokenClassificationPipeline",
    sequence_outputs=("labels", "scores", "probabilities", "input_ids", "special_tokens_mask", "offset_mapping"),
    chunked=True,
    preprocess_many=preprocess_many,
)
