"""Arrow types of results, errors and model inputs, and the way into them.

No pickled objects: a prediction has its task's type, an error is a struct of three strings, and model inputs that
cross a stage boundary are named tensors with dtype, shape and bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from ray_pipelines.errors import InvalidRow, RowError, attempt

__all__ = [
    "BOX_TYPE",
    "CHUNK_TYPE",
    "ERROR_TYPE",
    "IMAGE_TYPE",
    "RLE_TYPE",
    "TENSORS_TYPE",
    "empty_table",
    "errors_to_arrow",
    "is_list",
    "python_rows",
    "results_to_arrow",
    "set_column",
]

ERROR_TYPE = pa.struct([("stage", pa.string()), ("type", pa.string()), ("message", pa.string())])

IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""A picture, as Hugging Face datasets hold it: `bytes` is a PNG, `path` is null."""

RLE_TYPE = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.list_(pa.int32()))])
"""A mask in COCO's run-length encoding: `size` is [height, width]; see `media/masks.py`."""

BOX_TYPE = pa.struct([(side, pa.int32()) for side in ("xmin", "ymin", "xmax", "ymax")])
"""A box in pixels of the original picture."""

TENSOR_TYPE = pa.struct(
    [("name", pa.string()), ("dtype", pa.string()), ("shape", pa.list_(pa.int64())), ("data", pa.large_binary())]
)
CHUNK_TYPE = pa.list_(TENSOR_TYPE)
"""One chunk: the model's inputs or its outputs as named tensors (see `engine/transfer.py`)."""

TENSORS_TYPE = pa.large_list(CHUNK_TYPE)
"""The chunks of one row."""


def results_to_arrow(
    results: Sequence[Any], result_type: pa.DataType, *, is_own: bool = False
) -> tuple[pa.Array, list[RowError | None]]:
    """A column of results and, per row, the error that stands in its place.

    Args:
        results: Python results that fit `result_type`, or `RowError`s.
        result_type: The type of one result.
        is_own: The results are of a pipeline of the user's own; what they have and the type has not would be lost.

    Returns:
        The column, null where a row failed, and the errors. A result that does not fit the type is a `RowError` too.
    """
    if is_own:
        results = [
            attempt("postprocess", partial(_without_more, result, result_type))
            if not isinstance(result, RowError)
            else result
            for result in results
        ]
    errors: list[RowError | None] = [result if isinstance(result, RowError) else None for result in results]
    values = [None if isinstance(result, RowError) else _plain(result) for result in results]
    try:
        return pa.array(values, type=result_type), errors
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        for index, value in enumerate(values):
            converted = attempt("postprocess", _converter(value, result_type))
            if isinstance(converted, RowError):
                values[index], errors[index] = None, converted
        return pa.array(values, type=result_type), errors


def _without_more(result: Any, result_type: pa.DataType) -> Any:
    """The result.

    Raises:
        InvalidRow: It has fields that the type has not.
    """
    if unknown := _unknown_fields(result, result_type):
        raise InvalidRow(
            f"prediction: this pipeline's results have {', '.join(map(repr, unknown))}, which those of the task have "
            "not. Give the task a name of your own, or set prediction_type: infer; spec(dataset) takes an Arrow type."
        )
    return result


def _unknown_fields(value: Any, result_type: pa.DataType) -> list[str]:
    if is_list(result_type) and isinstance(value, list | tuple):
        return next((found for item in value if (found := _unknown_fields(item, result_type.value_type))), [])
    if not pa.types.is_struct(result_type) or not isinstance(value, Mapping):
        return []
    types = {field.name: field.type for field in result_type}
    unknown = [str(name) for name in value if name not in types]
    return unknown or [name for key, item in value.items() for name in _unknown_fields(item, types[key])]


def _converter(value: Any, result_type: pa.DataType) -> Callable[[], pa.Array]:
    return lambda: pa.array([value], type=result_type)


def _plain(value: Any) -> Any:
    """Arrays of several dimensions as lists of one-dimensional arrays, which is what Arrow converts fast."""
    if isinstance(value, np.ndarray) and value.ndim > 1:
        return [_plain(row) for row in value]
    return value


def errors_to_arrow(errors: Sequence[RowError | None]) -> pa.Array:
    """The `error` column: null where a row is fine."""
    return pa.array([error.as_dict() if error is not None else None for error in errors], type=ERROR_TYPE)


def set_column(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    """`table` with the column called `name` added, or replaced where it is."""
    index = table.schema.get_field_index(name)
    return table.append_column(name, column) if index < 0 else table.set_column(index, name, column)


def empty_table(schema: pa.Schema) -> pa.Table:
    """A table without rows; that of pyarrow's schemas is none for tensors and within structs for any extension type."""
    return pa.table([pa.nulls(0, field.type) for field in schema], schema=schema)


def python_rows(
    table: pa.Table, instead: Callable[[str, pa.ChunkedArray, Exception], list[Any]]
) -> list[dict[str, Any]]:
    """The rows of a table as Python's values.

    Args:
        table: The table.
        instead: Given a column's name, the column, and why Python cannot hold it, such as for a date after the year
            9999: its values.
    """

    def values_of(name: str, column: pa.ChunkedArray) -> list[Any]:
        try:
            values: list[Any] = column.to_pylist()
        except (OverflowError, ValueError) as error:
            values = instead(name, column, error)
        return values

    columns = map(values_of, table.column_names, table.itercolumns())
    return [dict(zip(table.column_names, values, strict=True)) for values in zip(*columns, strict=True)]


def is_list(kind: pa.DataType) -> bool:
    """Whether values of a type are lists, of any or of a fixed length."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
