"""What the classification tasks share: the type of a list of labels with scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

if TYPE_CHECKING:
    import pyarrow as pa

FunctionToApply = Literal["softmax", "sigmoid", "none"]
FUNCTION_TO_APPLY = (
    "What makes scores of logits. Unset, the model decides: none for regression, sigmoid for several labels at once or "
    "for a single label, else softmax."
)
RESULT_DESCRIPTION = "list of {label, score}, best first"


def label_scores(parameters: BaseModel) -> pa.DataType:
    """`list<struct<label: string, score: float>>`."""
    import pyarrow as pa

    return pa.list_(pa.struct([("label", pa.string()), ("score", pa.float32())]))


def to_list(result: Any, parameters: BaseModel) -> Any:
    """The result as a list, also where the pipeline unwraps a single label."""
    return [result] if isinstance(result, dict) else result


def postprocess_logits(
    pipe: Any, outputs: Sequence[Any], arguments: Mapping[str, Any], default_top_k: int = 1
) -> Sequence[Any]:
    """The labels and scores of many rows of logits, for the pipelines that classify texts and images.

    Args:
        pipe: The pipeline.
        outputs: The model outputs of each row.
        arguments: Arguments of the pipeline's `postprocess`.
        default_top_k: The pipeline's own `top_k`.

    Source: transformers 5.23, `pipelines/text_classification.py`; with all rows in one array, and looking at the
    model's config once.
    """
    import numpy as np
    import torch
    from transformers.pipelines.text_classification import ClassificationFunction, sigmoid, softmax

    logits = torch.cat([output["logits"] for output in outputs]).float().numpy()
    if logits.ndim != 2 or len(logits) != len(outputs):
        return [None] * len(outputs)
    config = pipe.model.config
    function = arguments.get("function_to_apply") or _function_of(config)
    if function == ClassificationFunction.SIGMOID:
        logits = sigmoid(logits)
    elif function == ClassificationFunction.SOFTMAX:
        logits = softmax(logits)
    best = np.argsort(-logits, axis=1, kind="stable")[:, : arguments.get("top_k", default_top_k)]
    scores = np.take_along_axis(logits, best, axis=1).tolist()
    names = config.id2label
    # Where a score is no number, the order that a sort gives is nobody's.
    is_finite = np.isfinite(logits).all(axis=1).tolist()
    return [
        [{"label": names[label], "score": score} for label, score in zip(*row, strict=True)] if finite else None
        for finite, *row in zip(is_finite, best.tolist(), scores, strict=True)
    ]


def _function_of(config: Any) -> str:
    """What makes scores of logits where nothing was said."""
    if config.problem_type == "regression":
        return "none"
    if config.problem_type == "multi_label_classification" or config.num_labels == 1:
        return "sigmoid"
    return "softmax"
