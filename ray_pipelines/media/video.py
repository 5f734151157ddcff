"""Videos: encoded bytes, paths and arrays to frames, by PyAV; neither torchcodec nor an ffmpeg binary is needed.

An hour of video does not fit into memory, and a model looks at 16 frames of it. So a `Video` stays encoded until
somebody says which frames are wanted, and only these are converted to RGB. Frames are upright: a phone's videos say in
their metadata how they are to be turned.

Only containers that hold their own frames are opened, each by its own demuxer: playlists and the like would open
further files and addresses that their content names.
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

__all__ = ["Video", "load_video", "num_decoded_pixels"]

MOV_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
SIGNATURES = {
    b"\x1a\x45\xdf\xa3": "matroska",
    b"FLV": "flv",
    b"OggS": "ogg",
    b"GIF8": "gif",
    b"\x30\x26\xb2\x75": "asf",
    b"\x00\x00\x01\xba": "mpeg",
    b"\x00\x00\x00\x01": "h264",
}
MAX_GROWTH, BLOCK = 4, 128
"""Frames of a stream may change their size, up to so many times the pixels that its header says; decoders count in
blocks of at most 128 x 128."""


class Video:
    """A video whose frames are decoded when they are asked for; `np.asarray(video)` gives all of them.

    Attributes:
        source: The encoded bytes, or the frames themselves as `uint8[num_frames, height, width, 3]`.
        num_frames: Number of frames; what the container says until `sample` finds that it is wrong.
        frame_rate: Frames per second; None where the video is an array.
        height, width: Size of an upright frame in pixels.
        num_turns: Quarters of a turn, anticlockwise, from a stored frame to an upright one.
    """

    def __init__(self, source: bytes | np.ndarray, limits: MediaLimits) -> None:
        self.num_frames: int
        self.source = source
        self.limits = limits
        self.frame_rate: float | None = None
        self.num_turns = 0
        if isinstance(source, np.ndarray):
            self.num_frames, self.height, self.width, _ = source.shape
        else:
            with _opened(source) as stream:
                self.num_frames, self.height, self.width = stream.frames, stream.height, stream.width
                self.frame_rate = float(stream.average_rate) if stream.average_rate else None
                self._check(self.num_frames)
                self._check_seconds(_duration_s(stream))
                first = next(stream.container.decode(stream), None)
                self.num_turns = round((first.rotation if first is not None else 0) / 90) % 4
                if self.num_turns % 2:
                    self.height, self.width = self.width, self.height
            if self.num_frames == 0:
                with _opened(source) as stream:
                    self.num_frames = self._count(stream)
        self._check(self.num_frames)
        if self.num_frames == 0:
            raise MediaError("video: has no frames.")

    def sample(self, choose: Callable[[int], Sequence[int] | np.ndarray], num_pixels_before: int = 0) -> np.ndarray:
        """The chosen frames, `uint8[num_indices, height, width, 3]`.

        Args:
            choose: Makes the indices, in ascending order, from the number of frames.
            num_pixels_before: Of frames of other videos that count with these.

        Raises:
            MediaError: The video cannot be decoded, or the frames have too many pixels.
        """
        indices = np.asarray(choose(self.num_frames), dtype=np.int64)
        self._check_taken(len(indices), num_pixels_before)
        if isinstance(self.source, np.ndarray):
            return self.source[indices]
        frames, is_whole = self._decoded(indices)
        if not is_whole:
            with _opened(self.source) as stream:
                self.num_frames = self._count(stream)
            if self.num_frames == 0:
                raise MediaError("video: has no frames.")
            indices = np.asarray(choose(self.num_frames), dtype=np.int64)
            self._check_taken(len(indices), num_pixels_before)
            frames, is_whole = self._decoded(indices)
            if not is_whole:
                raise MediaError("video: has fewer frames when it is read again.")
        return frames

    def __len__(self) -> int:
        return self.num_frames

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        frames = self.sample(np.arange)
        return frames if dtype is None else frames.astype(dtype)

    def _decoded(self, indices: np.ndarray) -> tuple[np.ndarray, bool]:
        """The frames at `indices`, and whether the video has all of them."""
        assert isinstance(self.source, bytes)
        frames = np.empty((len(indices), self.height, self.width, 3), dtype=np.uint8)
        missing = set(indices.tolist())
        last = max(missing, default=-1)
        height, width = (self.width, self.height) if self.num_turns % 2 else (self.height, self.width)
        with _opened(self.source) as stream:
            for index, frame in enumerate(stream.container.decode(stream)):
                self._check_seconds(frame.time)
                if index in missing:
                    missing.remove(index)
                    stored = frame.to_ndarray(format="rgb24", width=width, height=height)
                    frames[indices == index] = np.rot90(stored, self.num_turns)
                if index >= last:
                    break
        return frames, not missing

    def _count(self, stream: Any) -> int:
        num_frames = 0
        for frame in stream.container.decode(stream):
            num_frames += 1
            self._check(num_frames)
            self._check_seconds(frame.time)
        return num_frames

    def _check_taken(self, num_frames: int, num_pixels_before: int) -> None:
        num_pixels = num_pixels_before + num_frames * self.height * self.width
        if num_pixels > self.limits.max_taken_pixels:
            together = " with those of others" if num_pixels_before else ""
            raise MediaError(
                f"video: {num_frames:,} frames of it are asked for, which have {num_pixels:,} pixels{together}; the "
                f"limit is {self.limits.max_taken_pixels:,} (limits.max_taken_pixels)."
            )

    def _check_seconds(self, seconds: float | None) -> None:
        if seconds is not None and seconds > self.limits.max_seconds:
            raise MediaError(
                f"video: lasts {seconds:,.1f} s or more; the limit is {self.limits.max_seconds:,.1f} s "
                "(limits.max_seconds)."
            )

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
        self.limits.check_sides("video", self.width, self.height)


def load_video(value: Any, limits: MediaLimits) -> Video:
    """The video behind `value`.

    Args:
        value: Encoded bytes, a `{bytes, path}` struct, a path or URI, a `Video`, or decoded frames:
            `uint8[num_frames, height, width, 3]`.
        limits: `max_seconds`, `max_frames`, `max_pixels` and `max_aspect_ratio` of one frame, `max_taken_pixels`, and
            `max_bytes`.

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


def num_decoded_pixels(data: bytes) -> int:
    """Pixels of all frames of an encoded video, none of which is decoded; 0 where it cannot be read."""
    try:
        with _opened(data) as stream:
            num_frames = sum(packet.size > 0 for packet in stream.container.demux(stream))
            return int(num_frames * stream.height * stream.width)
    except MediaError:
        return 0


@contextmanager
def _opened(data: bytes) -> Iterator[Any]:
    """The first video stream of an encoded video, whose decoder refuses frames far larger than the header says.

    Raises:
        MediaError: There is none, or what happens with it in the block fails to decode.
    """
    try:
        import av
    except ImportError:
        raise MediaError("video: PyAV is not installed. Install ray-pipelines[video].") from None
    try:
        with av.open(io.BytesIO(data), format=_format_of(data), metadata_errors="ignore") as container:
            if not container.streams.video:
                raise MediaError("video: has no video stream.")
            stream = container.streams.video[0]
            most = MAX_GROWTH * (stream.width + BLOCK) * (stream.height + BLOCK)
            stream.codec_context.options = {"max_pixels": str(most)}
            yield stream
    except av.FFmpegError as error:
        raise MediaError(f"video: cannot be decoded: {error.strerror or error}.") from error


def _format_of(data: bytes) -> str:
    """FFmpeg's name of the container that begins like `data`.

    Raises:
        MediaError: It is none of those that are opened.
    """
    if data[:4] == b"RIFF":
        name = {b"AVI ": "avi", b"WAVE": "wav"}.get(data[8:12])
    elif data[4:8] in MOV_ATOMS:
        name = "mov"
    elif data[:1] == b"\x47" and data[188:189] == b"\x47":
        name = "mpegts"
    else:
        name = next((name for signature, name in SIGNATURES.items() if data.startswith(signature)), None)
    if name is None:
        raise MediaError("video: cannot be decoded: it is of no known format, or broken.")
    return name


def _duration_s(stream: Any) -> float | None:
    """What the stream, or else its container, says of its length in seconds."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return stream.container.duration / 1e6 if stream.container.duration else None
