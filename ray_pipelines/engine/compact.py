"""Tensors as few bytes, without loss: narrow integers, and one value where all are equal.

Token ids are 64-bit integers in PyTorch and fit into 16 or 32; masks of a row by itself are all ones. What crosses a
stage boundary is copied into the object store, fetched and perhaps spilled, so that its size is what it costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

__all__ = ["decode", "encode"]

FEW_VALUES = 16
"""Tensors of so many values at most are left as they are."""
FILLED, NARROWED = "*", "<"
NARROWABLE = ("int64", "int32", "int16")
NARROW = (np.int8, np.uint8, np.int16, np.int32)
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By the bytes of a value: what stands for types that numpy does not know."""


def encode(tensor: torch.Tensor) -> tuple[str, Any]:
    """The dtype of a tensor and how it is stored, and a buffer of its values.

    >>> dtype, data = encode(torch.arange(300))
    >>> dtype, len(data)
    ('int64<int16', 600)
    >>> dtype, data = encode(torch.ones(1, 300))
    >>> dtype, len(data)
    ('float32*', 4)
    """
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    dtype = _name(flat.dtype)
    if not flat.numel():
        return dtype, b""
    values = flat.view(BITS.get(flat.dtype.itemsize, torch.uint8)).numpy()
    if flat.numel() > FEW_VALUES:
        # Most tensors are told apart by two of their values.
        if flat.dtype.itemsize in BITS and values[0] == values[-1] and (values == values[0]).all():
            dtype, values = dtype + FILLED, values[:1].copy()
        elif dtype in NARROWABLE:
            low, high = values.min(), values.max()
            for narrow in NARROW:
                bounds = np.iinfo(narrow)
                if np.dtype(narrow).itemsize < values.itemsize and bounds.min <= low and high <= bounds.max:
                    dtype, values = f"{dtype}{NARROWED}{np.dtype(narrow).name}", values.astype(narrow)
                    break
    return dtype, values.view(np.uint8).data


def decode(dtype: str, shape: Sequence[int], data: Any) -> torch.Tensor:
    """The tensor that `encode` was given, with memory of its own."""
    name, is_narrow, stored = dtype.removesuffix(FILLED).partition(NARROWED)
    known = getattr(torch, name)
    if is_narrow:
        return torch.from_numpy(np.frombuffer(data, dtype=stored).astype(name)).reshape(tuple(shape))
    content = np.frombuffer(data, dtype=np.uint8).copy()
    flat = torch.from_numpy(content).view(known) if len(content) else torch.empty(0, dtype=known)
    if dtype.endswith(FILLED):
        flat = flat.expand(torch.Size(shape).numel()).contiguous()
    return flat.reshape(tuple(shape))


@cache
def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
