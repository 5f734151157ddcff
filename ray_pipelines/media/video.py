"""Videos: encoded bytes, paths and arrays to frames, by PyAV; neither torchcodec nor an ffmpeg binary is needed.

An hour of video does not fit into memory, and a model looks at 16 frames of it. So a `Video` stays encoded until
somebody says which frames are wanted, and only these are converted to RGB.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ray_pipelines.errors import InvalidInput, MediaError
from ray_pipelines.media import read_bytes
from ray_pipelines.media.limits import MediaLimits

__all__ = ["Video", "load_video"]


class Video:
    """A video whose frames are decoded when they are asked for; `np.asarray(video)` gives all of them.

    Attributes:
        source: The encoded bytes, or the frames themselves as `uint8[num_frames, height, width, 3]`.
        num_frames: Number of frames; what the container says until `sample` finds that it is wrong.
        frame_rate: Frames per second; None where the video is an array.
        height, width: Size of a frame in pixels.
    """

    def __init__(self, source: bytes | np.ndarray, limits: MediaLimits) -> None:
        self.num_frames: int
        self.source = source
        self.limits = limits
        self.frame_rate: float | None = None
        if isinstance(source, np.ndarray):
            self.num_frames, self.height, self.width, _ = source.shape
        else:
            with _opened(source) as stream:
                self.num_frames, self.height, self.width = stream.frames, stream.height, stream.width
                self.frame_rate = float(stream.average_rate) if stream.average_rate else None
                self._check(self.num_frames)
                if self.num_frames == 0:
                    self.num_frames = self._count(stream)
        self._check(self.num_frames)
        if self.num_frames == 0:
            raise MediaError("video: has no frames.")

    def sample(self, choose: Callable[[int], Sequence[int] | np.ndarray]) -> np.ndarray:
        """The chosen frames, `uint8[num_indices, height, width, 3]`.

        Args:
            choose: Makes the indices, in ascending order, from the number of frames.

        Raises:
            MediaError: The video cannot be decoded.
        """
        indices = np.asarray(choose(self.num_frames), dtype=np.int64)
        if isinstance(self.source, np.ndarray):
            return self.source[indices]
        frames = self._decoded(indices)
        if len(frames) < len(np.unique(indices)):
            with _opened(self.source) as stream:
                self.num_frames = self._count(stream)
            if self.num_frames == 0:
                raise MediaError("video: has no frames.")
            indices = np.asarray(choose(self.num_frames), dtype=np.int64)
            frames = self._decoded(indices)
        return np.stack([frames[index] for index in indices.tolist()])

    def __len__(self) -> int:
        return self.num_frames

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        frames = self.sample(np.arange)
        return frames if dtype is None else frames.astype(dtype)

    def _decoded(self, indices: np.ndarray) -> dict[int, np.ndarray]:
        """The frames at `indices` by their index, as far as the video has them."""
        wanted = set(indices.tolist())
        last = max(wanted, default=-1)
        frames: dict[int, np.ndarray] = {}
        assert isinstance(self.source, bytes)
        with _opened(self.source) as stream:
            for index, frame in enumerate(stream.container.decode(stream)):
                if index in wanted:
                    frames[index] = frame.to_ndarray(format="rgb24", width=self.width, height=self.height)
                if index >= last:
                    break
        return frames

    def _count(self, stream: Any) -> int:
        num_frames = 0
        for _ in stream.container.decode(stream):
            num_frames += 1
            self._check(num_frames)
        return num_frames

    def _check(self, num_frames: int) -> None:
        if self.width * self.height > self.limits.max_pixels:
            raise MediaError(
                f"video: has frames of {self.width * self.height:,} pixels ({self.width} x {self.height}); the limit "
                f"is {self.limits.max_pixels:,} (limits.max_pixels)."
            )
        if num_frames > self.limits.max_frames:
            raise MediaError(
                f"video: has {num_frames:,} frames or more; the limit is {self.limits.max_frames:,} "
                "(limits.max_frames)."
            )


def load_video(value: Any, limits: MediaLimits) -> Video:
    """The video behind `value`.

    Args:
        value: Encoded bytes, a `{bytes, path}` struct, a path or URI, a `Video`, or decoded frames:
            `uint8[num_frames, height, width, 3]`.
        limits: `max_frames`, `max_pixels` of one frame, and `max_bytes`.

    Raises:
        InvalidInput: `value` is none of these.
        MediaError: It cannot be opened, or is over a limit.
    """
    if isinstance(value, Video):
        return value
    if isinstance(value, np.ndarray):
        if value.dtype != np.uint8 or value.ndim != 4 or value.shape[3] != 3 or value.size == 0:
            raise InvalidInput(
                f"video: expected uint8[num_frames, height, width, 3]; got {value.dtype}{list(value.shape)}."
            )
        return Video(value, limits)
    return Video(read_bytes(value, "video", limits), limits)


@contextmanager
def _opened(data: bytes) -> Iterator[Any]:
    """The first video stream of an encoded video.

    Raises:
        MediaError: There is none, or what happens with it in the block fails to decode.
    """
    try:
        import av
    except ImportError:
        raise MediaError("video: PyAV is not installed. Install ray-pipelines[video].") from None
    try:
        with av.open(io.BytesIO(data), metadata_errors="ignore") as container:
            if not container.streams.video:
                raise MediaError("video: has no video stream.")
            yield container.streams.video[0]
    except av.FFmpegError as error:
        raise MediaError(f"video: cannot be decoded: {error.strerror or error}.") from error
