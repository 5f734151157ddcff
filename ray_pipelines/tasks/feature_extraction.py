"""feature-extraction: what the model makes of each text: a vector per token, or one for the whole text.

`transformers` gives `[1][tokens][hidden]` as nested Python lists. Here a result is a float32 array `[tokens, hidden]`,
or `[hidden]` with `pooling`, which is what datasets want. Padding never shows: a batch's outputs are cut to the tokens
of each row before they are pooled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic

from ray_pipelines.tasks import Field, Task, require_text
from ray_pipelines.tasks._precision import Precision, number_type
from ray_pipelines.tasks._tokenizer import TokenizerParameters, preprocess_texts, set_arguments

if TYPE_CHECKING:
    import pyarrow as pa


class FeatureExtractionParameters(TokenizerParameters):
    """Parameters of feature-extraction."""

    pooling: Annotated[
        Literal["none", "mean", "cls", "max", "last"],
        pydantic.Field(
            description="One vector for the whole text: the mean or maximum over its tokens, its first (`cls`) or its "
            "last token; `none` keeps a vector per token. Sentence-transformers models mostly mean `mean`."
        ),
    ] = "none"
    normalize: Annotated[bool, pydantic.Field(description="Scale each vector to length 1.")] = False
    precision: Precision = "float32"
    tokenize_kwargs: Annotated[
        dict[str, Any] | None, pydantic.Field(description="Any further arguments of the tokenizer's call.")
    ] = None


def to_item(fields: Mapping[str, Any]) -> str:
    """The text."""
    return require_text(fields["text"])


def pipeline_parameters(parameters: FeatureExtractionParameters) -> dict[str, Any]:
    """The pipeline's keyword arguments: those of the tokenizer, and tensors rather than nested lists as result."""
    return {
        "tokenize_kwargs": {**(parameters.tokenize_kwargs or {}), **set_arguments(parameters)},
        "return_tensors": True,
    }


def result_type(parameters: FeatureExtractionParameters) -> pa.DataType:
    """`list<float>` of length hidden with pooling, else `list<list<float>>` of tokens by hidden."""
    import pyarrow as pa

    vector = pa.list_(number_type(parameters.precision))
    return vector if parameters.pooling != "none" else pa.list_(vector)


def to_result(result: Any, parameters: FeatureExtractionParameters) -> Any:
    """The features as a numpy array: `[tokens, hidden]`, or `[hidden]` with pooling.

    Args:
        result: `[1, tokens, hidden]`, a tensor of the model's dtype.
        parameters: Say how to pool and normalise.
    """
    import numpy as np

    features = result[0].float().numpy()
    if parameters.pooling == "mean":
        features = features.mean(axis=0)
    elif parameters.pooling == "max":
        features = features.max(axis=0)
    elif parameters.pooling != "none":
        features = features[0 if parameters.pooling == "cls" else -1]
    if parameters.normalize:
        features = features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), np.finfo(np.float32).tiny)
    return np.ascontiguousarray(features, dtype=parameters.precision)


TASK = Task(
    name="feature-extraction",
    summary="The model's features of each text: a vector per token, or one for the whole text.",
    inputs=(Field("text", "text", "The text."),),
    parameters=FeatureExtractionParameters,
    result_type=result_type,
    result_description="float32[hidden] with pooling, else float32[tokens, hidden]",
    to_item=to_item,
    to_result=to_result,
    pipeline_parameters=pipeline_parameters,
    kept_outputs="first",
    sequence_outputs="all",
    preprocess_many=preprocess_texts,
)
