"""Any pipeline's results as values that Arrow takes, and the Arrow type of a sample of them.

For pipelines that no task file describes: what comes out of them is known only once some rows have run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from ray_pipelines.media.image import encode_image

__all__ = ["plain", "type_of_sample"]


def plain(value: Any) -> Any:
    """`value` with tensors as arrays, pictures as `{bytes, path}`, and tuples as lists.

    >>> plain({"scores": torch.ones(2), "span": (1, 2)})
    {'scores': array([1., 1.], dtype=float32), 'span': [1, 2]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype in (torch.bfloat16, torch.float16) else value).numpy()
    if isinstance(value, Image.Image):
        return encode_image(value)
    if isinstance(value, np.ndarray) and value.ndim != 1:
        return value.item() if value.ndim == 0 else [plain(row) for row in value]
    return value.item() if isinstance(value, np.generic) else value


def type_of_sample(results: Sequence[Any]) -> pa.DataType:
    """The Arrow type that all of `results` fit; what is null in all of them is taken for a string.

    Raises:
        pyarrow.ArrowException: The results have no common type.
    """
    return _without_nulls(pa.array([plain(result) for result in results]).type)


def _without_nulls(found: pa.DataType) -> pa.DataType:
    if pa.types.is_null(found):
        return pa.string()
    if pa.types.is_list(found):
        return pa.list_(_without_nulls(found.value_type))
    if pa.types.is_struct(found):
        return pa.struct([(item.name, _without_nulls(item.type)) for item in found])
    return found
