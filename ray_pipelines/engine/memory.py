"""Out of memory and broken devices, told from other errors; and a limit on what a forward may take on a CPU.

A process that takes more memory than its container has is killed without a word, and Ray would start it again and
again. So while a forward runs on a CPU, the process may not allocate more than is free (`RLIMIT_DATA`, Linux only):
PyTorch then says that memory is out, as it does on a GPU, and the batch is halved.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

__all__ = [
    "DeviceLost",
    "available_bytes",
    "exit_if_device_lost",
    "free_memory",
    "is_out_of_memory",
    "limited_memory",
    "raise_if_device_lost",
]

OUT_OF_MEMORY_PHRASES = ("out of memory", "can't allocate memory", "cannot allocate memory", "alloc_cpu", "bad_alloc")
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

T = TypeVar("T")


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


def exit_if_device_lost(function: Callable[[], T]) -> T:
    """The result of `function()`; if it lost the device, this process ends at once, and Ray starts another.

    `sys.exit` would hang Ray.
    """
    try:
        return function()
    except DeviceLost as error:
        logging.getLogger(__name__).error("The device is lost, the process starts anew: %s", error)
        logging.shutdown()
        os._exit(1)


def free_memory(device: torch.device) -> None:
    """Give back what the allocator of `device` holds but does not use."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def limited_memory(max_bytes: int | None) -> Iterator[None]:
    """In the block, this process can allocate `max_bytes` more than it has; None for no limit, and so elsewhere.

    Threads of other libraries are under the same limit. A limit that the process has already is never raised.
    """
    if max_bytes is None or sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _data_bytes() + max_bytes
    for bound in (soft, hard):
        limit = limit if bound == resource.RLIM_INFINITY else min(limit, bound)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def available_bytes() -> int | None:
    """Memory that this process may still take, of its container (cgroup) or else of the machine; None if unknown."""
    found = [_machine_bytes(), _container_bytes(Path("/sys/fs/cgroup"), "memory.max", "memory.current")]
    found.append(
        _container_bytes(Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
    )
    return min((value for value in found if value is not None), default=None)


def _data_bytes() -> int:
    """What counts towards `RLIMIT_DATA`: private memory that can be written to."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0


def _machine_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _container_bytes(folder: Path, limit_file: str, usage_file: str) -> int | None:
    """What is left of a container's limit; the page cache, which it can give back, does not count as used."""
    try:
        limit, usage = ((folder / name).read_text().strip() for name in (limit_file, usage_file))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if not limit.isdigit() or int(limit) > 1 << 60:
        return None
    return max(0, int(limit) - int(usage) + int(stat.get("inactive_file", 0)))
