"""The sound of MP4, WebM, AAC, AMR and WMA files, which libsndfile does not read, by PyAV.

PyAV brings the libraries of FFmpeg with it. Only these containers are opened, each by its own demuxer: others, such as
playlists, would open further files and addresses that their content names.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from ray_pipelines.errors import MediaError

__all__ = ["container_of", "duration_s", "is_well_known", "open_blocks"]

SIGNATURES = {b"\x1a\x45\xdf\xa3": "matroska", b"#!AMR": "amr", b"\x30\x26\xb2\x75": "asf"}
SOUND_SIGNATURES = (b"RIFF", b"RIFX", b"RF64", b"riff", b"fLaC", b"OggS", b"ID3", b"caff", b".snd")


def container_of(data: bytes) -> str | None:
    """FFmpeg's name of the container that begins like `data`, if it is one of those that are opened here.

    >>> container_of(b"....ftypM4A "), container_of(b"RIFF....WAVE")
    ('mov', None)
    """
    if data[4:8] == b"ftyp":
        return "mov"
    if len(data) > 1 and data[0] == 0xFF and data[1] & 0xF6 == 0xF0:
        return "aac"
    return next((name for signature, name in SIGNATURES.items() if data.startswith(signature)), None)


def is_well_known(data: bytes) -> bool:
    """Whether a recording is WAV, RF64, W64, FLAC, OGG, MP3, AIFF, AU, CAF or one of the containers opened here.

    libsndfile reads twenty kinds more (PAF, MAT4, SVX, …), by code that hardly anything else runs.

    >>> is_well_known(b"fLaC...."), is_well_known(b"FORM....8SVX")
    (True, False)
    """
    is_mpeg = len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0
    is_aiff = data[:4] == b"FORM" and data[8:12] in (b"AIFF", b"AIFC")
    return is_mpeg or is_aiff or data.startswith(SOUND_SIGNATURES) or container_of(data) is not None


def duration_s(data: bytes, container: str) -> float | None:
    """Seconds of a file, by its header or else by the packets of its sound; None where it cannot be read."""
    try:
        import av
    except ImportError:
        return None
    try:
        with av.open(io.BytesIO(data), format=container, metadata_errors="ignore") as file:
            if file.duration:
                return float(file.duration / av.time_base)
            ends = ((packet.pts or 0) + (packet.duration or 0) for packet in file.demux(audio=0) if packet.size)
            return float(max(ends, default=0) * file.streams.audio[0].time_base)
    except (av.FFmpegError, ValueError, IndexError):
        return None


def open_blocks(data: bytes, container: str) -> tuple[int, Iterator[np.ndarray]]:
    """The rate of the first sound track in Hz, and its blocks, `float32[samples, channels]`.

    Raises:
        MediaError: PyAV is not installed, or there is no sound in the file.
    """
    try:
        import av
    except ImportError:
        raise MediaError(
            f"audio: {container} files are decoded by PyAV, which is not installed: pip install av."
        ) from None
    try:
        file = av.open(io.BytesIO(data), format=container, metadata_errors="ignore")
        # A track that no decoder is known for has no rate.
        rate = getattr(file.streams.audio[0], "rate", None) if file.streams.audio else None
        if not rate:
            raise MediaError("audio: the file has no sound that can be decoded.")
        return int(rate), _blocks(file)
    except (av.FFmpegError, ValueError) as error:
        raise error if isinstance(error, MediaError) else _broken(error) from None


def _blocks(file: Any) -> Iterator[np.ndarray]:
    import av

    to_float = av.AudioResampler(format="fltp")
    try:
        with file:
            for frame in file.decode(audio=0):
                yield from (part.to_ndarray().T for part in to_float.resample(frame))
            yield from (part.to_ndarray().T for part in to_float.resample(None))
    except (av.FFmpegError, ValueError) as error:
        raise _broken(error) from None


def _broken(error: Exception) -> MediaError:
    return MediaError(f"audio: cannot be decoded: {str(error).rstrip('.')}.")
