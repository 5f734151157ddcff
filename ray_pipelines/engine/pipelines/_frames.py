"""Recordings in frames: how many a model makes of some samples."""

from __future__ import annotations

from typing import Any

import torch

from ray_pipelines.errors import InvalidInput

__all__ = ["check_length", "frames_of"]


def frames_of(model: Any, num_samples: torch.Tensor) -> list[int]:
    """The frames of recordings, from the samples of each, `int64[recordings]`."""
    return [int(length) for length in model._get_feat_extract_output_lengths(num_samples)]


def check_length(model: Any, num_samples: int) -> None:
    """Refuses a recording that is too short for a single frame, alone or beside longer ones that it is padded to.

    Raises:
        InvalidInput: It is.
    """
    if frames_of(model, torch.tensor([num_samples]))[0] < 1:
        raise InvalidInput(f"audio: {num_samples:,} samples are too short for this model.")
