"""What the classification tasks share: the type of a list of labels with scores."""

from __future__ import annotations

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
