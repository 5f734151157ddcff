"""Videos on their way through a processor of transformers, which takes paths, or frames without their times.

What a processor does with a path is right: its own rule chooses the frames, from the number of frames and their rate,
and the model is told when each was shown. Only its decoder is another (torchcodec). So a `Video` travels as a name,
which the processor hands to `fetch_videos` with its rule; that is answered here, by `ray_pipelines.media.video`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from transformers.video_utils import VideoMetadata

from ray_pipelines.errors import InvalidInput
from ray_pipelines.media.video import Video

__all__ = ["take_videos", "with_named_videos"]


class _Name(str):
    """A string that brings its video along."""

    video: Video


def take_videos(processor: Any) -> None:
    """Lets the processor's video processor decode named videos, and nothing else."""
    video_processor = getattr(processor, "video_processor", None)
    if video_processor is not None:
        video_processor.fetch_videos = _fetch


def with_named_videos(inputs: Any) -> Any:
    """Inputs of a pipeline, a mapping or the messages of a chat, with names in place of their videos."""
    if isinstance(inputs, Video):
        name = _Name("video")
        name.video = inputs
        return name
    if isinstance(inputs, Mapping):
        return {key: with_named_videos(value) for key, value in inputs.items()}
    if isinstance(inputs, list):
        return [with_named_videos(value) for value in inputs]
    return inputs


def _fetch(
    names: str | Sequence[Any], sample_indices_fn: Callable[..., Any] | None = None, num_pixels_before: int = 0
) -> tuple[Any, Any]:
    """The frames, `uint8[num_frames, height, width, 3]`, and the metadata of one video, or of several.

    Args:
        names: As `with_named_videos` makes them.
        sample_indices_fn: The processor's rule, from metadata to indices of frames; None for all frames.
        num_pixels_before: Of other videos of the row, which are in memory at the same time.
    """
    if not isinstance(names, str):
        fetched: list[tuple[Any, Any]] = []
        for name in names:
            fetched.append(_fetch(name, sample_indices_fn, num_pixels_before))
            num_pixels_before += getattr(fetched[-1][0], "size", 0) // 3
        frames, metadata = zip(*fetched, strict=True)
        return frames, metadata
    if not isinstance(names, _Name):
        raise InvalidInput(f"videos: expected a decoded video; got the name {names!r:.80}, which is never opened.")
    video = names.video
    found: list[VideoMetadata] = []

    def choose(num_frames: int) -> np.ndarray:
        duration_s = num_frames / video.frame_rate if video.frame_rate else None
        metadata = VideoMetadata(num_frames, video.frame_rate, video.width, video.height, duration_s, "pyav")
        chosen = np.arange(num_frames) if sample_indices_fn is None else sample_indices_fn(metadata=metadata)
        indices = np.asarray(chosen, dtype=np.int64)
        metadata.frames_indices = indices
        found.append(metadata)
        return indices

    return video.sample(choose, num_pixels_before), found[-1]
