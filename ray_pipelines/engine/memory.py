"""Out of memory and broken devices, told from other errors."""

from __future__ import annotations

import gc

import torch

__all__ = ["DeviceLost", "free_memory", "is_out_of_memory", "raise_if_device_lost"]

OUT_OF_MEMORY_PHRASES = ("out of memory", "can't allocate memory", "cannot allocate memory", "alloc_cpu")
DEVICE_LOST_PHRASES = (
    "device-side assert",
    "illegal memory access",
    "illegal instruction",
    "unspecified launch failure",
    "uncorrectable ecc error",
    "misaligned address",
    "cudnn_status_execution_failed",
    "cublas_status_execution_failed",
)


class DeviceLost(BaseException):
    """The device cannot be used any more: the process must end and be started anew.

    Not an `Exception`, so that nothing turns it into a dead letter.
    """


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether `error` says that a batch did not fit, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError) and any(phrase in message for phrase in OUT_OF_MEMORY_PHRASES)


def raise_if_device_lost(error: BaseException | None) -> None:
    """Raises `DeviceLost` if `error` has poisoned the device's context."""
    message = str(error).lower()
    if isinstance(error, RuntimeError) and any(phrase in message for phrase in DEVICE_LOST_PHRASES):
        raise DeviceLost(str(error)) from error


def free_memory(device: torch.device) -> None:
    """Give back what the allocator of `device` holds but does not use."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
