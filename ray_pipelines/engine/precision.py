"""Which precisions a device has instructions for: in 16 bits, a CPU without any is several times slower."""

from __future__ import annotations

import platform

import torch

__all__ = ["cheaper_setting", "is_fast"]


def is_fast(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether `device` computes in `dtype` at least as fast as in float32."""
    if device.type != "cpu" or dtype not in (torch.bfloat16, torch.float16):
        return True
    if platform.machine().lower() not in ("x86_64", "amd64"):
        # Off x86, oneDNN says so only where there are instructions; on it, also where it converts.
        return dtype is torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype is torch.float16:
        return bool(torch.cpu._is_amx_fp16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def cheaper_setting(device: torch.device) -> str:
    """The setting that makes a model in float32 faster on `device`."""
    return "model.dtype: bfloat16" if is_fast(torch.bfloat16, device) else "optimize.int8: true"
