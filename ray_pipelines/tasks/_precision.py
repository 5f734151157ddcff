"""The type of the numbers in large results: half the bytes on request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import pydantic

if TYPE_CHECKING:
    import pyarrow as pa

Precision = Annotated[Literal["float32", "float16"], pydantic.Field(description="Type of the numbers in the result.")]


def number_type(precision: Literal["float32", "float16"]) -> pa.DataType:
    """The Arrow type of one number."""
    import pyarrow as pa

    return pa.float16() if precision == "float16" else pa.float32()
