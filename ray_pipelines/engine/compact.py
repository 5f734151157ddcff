"""Tensors as few bytes, without loss: narrow integers, and one value where all are equal.

Token ids are 64-bit integers in PyTorch and fit into 16 or 32; masks of a row by itself are all ones. What crosses a
stage boundary is copied into the object store, fetched and perhaps spilled, so that its size is what it costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["decode", "encode"]

FEW_VALUES = 16
"""Tensors of so many values at most are left as they are."""
FILLED, NARROWED = "*", "<"
INTEGERS = (torch.int64, torch.int32, torch.int16)
NARROW = (torch.int8, torch.uint8, torch.int16, torch.int32)
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


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
    if flat.numel() > FEW_VALUES:
        if _is_constant(flat):
            dtype, flat = dtype + FILLED, flat[:1].clone()
        elif flat.dtype in INTEGERS:
            low, high = (int(value) for value in flat.aminmax())
            for narrow in NARROW:
                bounds = torch.iinfo(narrow)
                if narrow.itemsize < flat.dtype.itemsize and bounds.min <= low and high <= bounds.max:
                    dtype, flat = f"{dtype}{NARROWED}{_name(narrow)}", flat.to(narrow)
                    break
    return dtype, flat.view(torch.uint8).numpy().data if flat.numel() else b""


def decode(dtype: str, shape: Sequence[int], data: Any) -> torch.Tensor:
    """The tensor that `encode` was given, with memory of its own."""
    name, is_narrow, stored = dtype.removesuffix(FILLED).partition(NARROWED)
    stored_dtype, content = getattr(torch, stored if is_narrow else name), bytearray(data)
    flat = torch.frombuffer(content, dtype=stored_dtype) if content else torch.empty(0, dtype=stored_dtype)
    if dtype.endswith(FILLED):
        return flat.repeat(torch.Size(shape).numel()).reshape(tuple(shape))
    return flat.to(getattr(torch, name)).reshape(tuple(shape))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _is_constant(flat: torch.Tensor) -> bool:
    """Whether all values have the same bits; most tensors are told apart by two of them."""
    if flat.dtype.itemsize not in BITS:
        return False
    bits = flat.view(BITS[flat.dtype.itemsize])
    return bool(bits[0] == bits[-1]) and bool((bits == bits[0]).all())
