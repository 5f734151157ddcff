"""Random numbers that depend on a seed and a row's content alone: not on the batch, the order or the worker."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

__all__ = ["seeded"]


@contextlib.contextmanager
def seeded(content: Any, seed: int, device: torch.device) -> Iterator[None]:
    """In the block, random numbers of all libraries follow from `content` and `seed`; afterwards they go on as before.

    Args:
        content: An item, or the model inputs of a chunk.
        seed: The job's seed.
        device: Whose generator is seeded beside the CPU's.
    """
    own = _digest(content) ^ seed
    states = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        random.seed(own)
        np.random.seed(own % 2**32)
        torch.manual_seed(own)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def _digest(content: Any) -> int:
    """63 bits of a hash of an item or of a chunk's model inputs."""
    digest = hashlib.blake2b(digest_size=8)

    def add(value: Any) -> None:
        if isinstance(value, Mapping):
            for name in sorted(value):
                digest.update(str(name).encode())
                add(value[name])
        elif isinstance(value, torch.Tensor):
            digest.update(value.detach().cpu().float().numpy().tobytes())
        elif isinstance(value, str):
            digest.update(value.encode(errors="surrogatepass"))
        elif isinstance(value, list | tuple):
            # Where a chunk has crossed a stage boundary, its tuples have become lists.
            digest.update(b"[")
            for part in value:
                add(part)
        else:
            digest.update(pickle.dumps(value))

    add(content)
    return int.from_bytes(digest.digest(), "little") >> 1
