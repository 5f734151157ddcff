"""Model inputs and outputs as Arrow values, where they cross a stage boundary: named tensors, no pickled objects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers.utils import ModelOutput

__all__ = ["pack", "unpack"]

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
            flat = value.detach().cpu().contiguous().reshape(-1)
            data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
            dtype = str(value.dtype).removeprefix("torch.")
            packed.append({"name": name, "dtype": dtype, "shape": list(value.shape), "data": data})
        else:
            packed.append({"name": name, "dtype": JSON, "shape": [], "data": json.dumps(value).encode()})
    return packed


def unpack(packed: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """What `pack` was given.

    >>> unpack(pack({"ids": torch.ones(1, 2), "sentence": "a"}))
    {'ids': tensor([[1., 1.]]), 'sentence': 'a'}
    """
    values: dict[str, Any] = {}
    is_model_output = False
    for tensor in packed:
        if tensor["dtype"] == MODEL_OUTPUT:
            is_model_output = True
            continue
        if tensor["dtype"] == JSON:
            values[tensor["name"]] = json.loads(tensor["data"])
            continue
        dtype = getattr(torch, tensor["dtype"])
        data = bytearray(tensor["data"])
        flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        values[tensor["name"]] = flat.reshape(tensor["shape"])
    return ModelOutput(values) if is_model_output else values
