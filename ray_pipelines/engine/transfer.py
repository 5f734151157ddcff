"""Model inputs and outputs as Arrow values, where they cross a stage boundary: named tensors, no pickled objects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers.utils import ModelOutput

from ray_pipelines.engine.compact import decode, encode

__all__ = ["PackedChunks", "pack", "packed_bytes", "unpack"]

JSON = "json"
MODEL_OUTPUT = "model_output"
"""Marks values that were a `ModelOutput`, whose names are attributes and whose order counts, and become one again."""


def pack(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One chunk as `arrow.TENSORS_TYPE` holds it: tensors as dtype, shape and bytes, anything else as JSON.

    >>> [(t["name"], t["dtype"], t["shape"]) for t in pack({"ids": torch.zeros(1, 2, dtype=torch.int64)})]
    [('ids', 'int64', [1, 2])]

    Raises:
        TypeError: A value is neither a tensor nor made of JSON's types; such a task cannot be split into stages.
    """
    packed: list[dict[str, Any]] = []
    if isinstance(values, ModelOutput):
        packed.append({"name": "", "dtype": MODEL_OUTPUT, "shape": [], "data": b""})
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            dtype, data = encode(value)
            packed.append({"name": name, "dtype": dtype, "shape": list(value.shape), "data": data})
        else:
            packed.append({"name": name, "dtype": JSON, "shape": [], "data": json.dumps(value).encode()})
    return packed


def packed_bytes(packed: Sequence[Mapping[str, Any]]) -> int:
    """The bytes of a packed chunk, without its names.

    >>> packed_bytes(pack({"ids": torch.zeros(1, 2, dtype=torch.int64)}))
    16
    """
    return sum(len(tensor["data"]) for tensor in packed)


def unpack(packed: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """What `pack` was given.

    >>> unpack(pack({"ids": torch.ones(1, 2), "sentence": "a"}))
    {'ids': tensor([[1., 1.]]), 'sentence': 'a'}
    """
    return _chunk((tensor["name"], tensor["dtype"], tensor["shape"], tensor["data"]) for tensor in packed)


class PackedChunks:
    """The chunks of a column, each unpacked when it is asked for; the column itself is not copied.

    Args:
        column: One chunk in each row, of `arrow.CHUNK_TYPE`; rows without one must be null.

    >>> from ray_pipelines.arrow import CHUNK_TYPE
    >>> column = pa.chunked_array([pa.array([None, pack({"ids": torch.ones(2)})], type=CHUNK_TYPE)])
    >>> PackedChunks(column)[1]
    {'ids': tensor([1., 1.])}
    """

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._blocks = [_PackedBlock(array) for array in column.chunks]
        self._starts = np.cumsum([0, *[len(array) for array in column.chunks]])

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        block = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._blocks[block][int(row - self._starts[block])]


class _PackedBlock:
    """The columns below one array of packed chunks, as Python and numpy values."""

    def __init__(self, array: pa.ListArray) -> None:
        offsets = array.offsets.to_numpy()
        first, last = (int(offsets[0]), int(offsets[-1])) if len(array) else (0, 0)
        tensors = array.values.slice(first, last - first)
        self._offsets = offsets - first
        self._names, self._dtypes = tensors.field("name").to_pylist(), tensors.field("dtype").to_pylist()
        self._shapes, self._data = tensors.field("shape").to_pylist(), tensors.field("data")

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        return _chunk(
            (self._names[index], self._dtypes[index], self._shapes[index], self._data[index].as_buffer())
            for index in range(self._offsets[row], self._offsets[row + 1])
        )


def _chunk(tensors: Iterable[tuple[str, str, Sequence[int], Any]]) -> Mapping[str, Any]:
    """A chunk out of the name, dtype, shape and bytes of each of its values."""
    values: dict[str, Any] = {}
    is_model_output = False
    for name, dtype, shape, data in tensors:
        if dtype == MODEL_OUTPUT:
            is_model_output = True
        elif dtype == JSON:
            values[name] = json.loads(bytes(data))
        else:
            values[name] = decode(dtype, shape, data)
    return ModelOutput(values) if is_model_output else values
