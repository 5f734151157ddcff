"""Recordings: encoded bytes, paths and samples to one channel of float32 at the model's rate, and back to WAV.

Decoding is libsndfile's (WAV, FLAC, OGG, MP3, …) or PyAV's (MP4, WebM, AAC, …), resampling soxr's. Channels are
averaged, as ffmpeg does for `transformers`. Recordings are decoded in blocks, so that many channels or a high rate do
not fill the memory.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from ray_pipelines.errors import InvalidInput, MediaError
from ray_pipelines.media import read_bytes
from ray_pipelines.media.containers import container_of, duration_s, open_blocks
from ray_pipelines.media.limits import MediaLimits

__all__ = ["encode_wav", "load_audio", "num_seconds"]

BLOCK_FRAMES = 1 << 20
MAX_SAMPLES_A_SECOND = 8 * 48_000
"""Of all channels, on average over `max_seconds`; a megabyte of FLAC may hold ten times as many for minutes."""
PCM_BITS = {"int8": 8, "int16": 16, "int32": 32, "int64": 16}
"""Bits of the samples that arrays of integers hold; Python's integers, and those of a list column, are 16-bit PCM."""


def load_audio(value: Any, limits: MediaLimits, sampling_rate: int | None) -> Any:
    """One channel of samples, `float32[num_samples]`.

    Args:
        value: Encoded bytes, a `{bytes, path}` struct, a path or URI, a `{array | raw, sampling_rate}` struct, or
            samples at the model's rate (an array or a list of floats).
        limits: `max_seconds` and `max_bytes`.
        sampling_rate: The model's rate in Hz; None leaves the rate as it is.

    Raises:
        InvalidInput: `value` is none of these.
        MediaError: It cannot be decoded, or is over a limit.
    """
    rate = sampling_rate
    if isinstance(value, dict) and (value.get("array") is not None or value.get("raw") is not None):
        if value.get("stride") is not None:
            raise InvalidInput("audio: has a stride, which is not taken; chunk_length_s and stride_length_s cut it.")
        rate = _rate(value.get("sampling_rate"), sampling_rate)
        value = value["array"] if value.get("array") is not None else value["raw"]
    elif not isinstance(value, list | tuple | np.ndarray) and not hasattr(value, "numpy"):
        return _decode_audio(read_bytes(value, "audio", limits), limits, sampling_rate)
    samples = _samples(value)
    if rate:
        _check_seconds(len(samples) / rate, limits)
    return _joined(_resampled(iter([samples]), rate, sampling_rate))


def num_seconds(data: bytes) -> float | None:
    """How long an encoded recording lasts, without decoding it; None where it cannot be read."""
    import soundfile

    if container := container_of(data):
        return duration_s(data, container)
    try:
        return float(soundfile.info(io.BytesIO(data)).duration) or None
    except soundfile.SoundFileError:
        return None


def encode_wav(samples: Any, sampling_rate: int, subtype: Literal["PCM_16", "PCM_24", "FLOAT"] = "PCM_16") -> bytes:
    """The samples as the bytes of a WAV file.

    Args:
        samples: `float[samples]` between -1 and 1, or `float[samples, channels]`; what is beyond is clipped to PCM.
        sampling_rate: Samples per second.
        subtype: 16 bits play everywhere; `FLOAT` keeps float32 as it is.
    """
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.asarray(samples, dtype=np.float32), sampling_rate, format="WAV", subtype=subtype)
    return buffer.getvalue()


def _rate(value: Any, default: int | None) -> int | None:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 1 <= value < 1e9:
        raise InvalidInput(f"audio: expected a positive sampling_rate; got {value!r}.")
    return int(value)


def _samples(value: Any) -> np.ndarray:
    """One channel of an array of samples, `float32[n]`; integers are scaled to -1 to 1.

    Two axes are read as in `transformers`: `[channels, n]` with one or two channels.
    """
    try:
        array = value.numpy(force=True) if hasattr(value, "numpy") else np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"audio: expected an array of samples: {error}.") from None
    if array.size == 0:
        raise InvalidInput("audio: expected samples; got an empty array.")
    if array.dtype.kind != "f" and array.dtype.name not in PCM_BITS:
        raise InvalidInput(f"audio: expected an array of floats or signed integers; got {array.dtype}.")
    if array.ndim > 2 or (array.ndim == 2 and array.shape[0] > 2) or array.ndim == 0:
        raise InvalidInput(
            f"audio: expected samples [n], or [channels, n] of one or two channels; got shape {list(array.shape)}."
        )
    if array.dtype.kind != "f":
        full_scale = 2 ** (PCM_BITS[array.dtype.name] - 1)
        if array.dtype == np.int64 and max(-int(array.min()), int(array.max())) > full_scale:
            raise InvalidInput(f"audio: expected integers of 16 bits; got up to {int(np.abs(array).max()):,}.")
        array = array / np.float32(full_scale)
    samples = array.mean(axis=0, dtype=np.float32) if array.ndim == 2 else array.astype(np.float32)
    _check_finite(samples)
    return samples


def _decode_audio(data: bytes, limits: MediaLimits, sampling_rate: int | None) -> np.ndarray:
    import soundfile

    if container := container_of(data):
        rate, blocks = open_blocks(data, container)
        return _joined(_resampled(_mixed(blocks, rate, limits), rate, sampling_rate))
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate = int(file.samplerate)
            _check_seconds(file.frames / rate, limits)
            _check_samples(file.frames * file.channels, limits)
            return _joined(_resampled(_mixed(_blocks(file), rate, limits), rate, sampling_rate))
    except soundfile.SoundFileError as error:
        # Its own text begins with the name of the file, here of an object in memory.
        reason = getattr(error, "error_string", "libsndfile fails")
        raise MediaError(f"audio: cannot be decoded: {reason.rstrip('.')}.") from None


def _blocks(file: Any) -> Iterator[np.ndarray]:
    while len(block := file.read(max(BLOCK_FRAMES // file.channels, 1), dtype="float32", always_2d=True)):
        yield block


def _mixed(blocks: Iterator[np.ndarray], rate: int, limits: MediaLimits) -> Iterator[np.ndarray]:
    """The blocks, `float32[n, channels]`, as one channel, `float32[n]`."""
    num_frames = 0
    for block in blocks:
        num_frames += len(block)
        _check_seconds(num_frames / rate, limits)
        _check_samples(num_frames * block.shape[1], limits)
        _check_finite(block)
        yield block.mean(axis=1)


def _resampled(blocks: Iterator[np.ndarray], rate: int | None, target_rate: int | None) -> Iterator[np.ndarray]:
    if not rate or not target_rate or rate == target_rate:
        yield from blocks
        return
    import soxr

    stream = soxr.ResampleStream(rate, target_rate, 1, dtype="float32")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True)


def _joined(blocks: Iterator[np.ndarray]) -> np.ndarray:
    samples = np.concatenate([np.zeros(0, dtype=np.float32), *blocks])
    if len(samples) == 0:
        raise MediaError("audio: has no samples.")
    return samples


def _check_finite(samples: np.ndarray) -> None:
    if not np.isfinite(samples).all():
        raise InvalidInput("audio: expected finite samples; got NaN or infinity.")


def _check_seconds(seconds: float, limits: MediaLimits) -> None:
    if seconds > limits.max_seconds:
        raise MediaError(
            f"audio: lasts {seconds:,.1f} s; the limit is {limits.max_seconds:,.1f} s (limits.max_seconds)."
        )


def _check_samples(num_samples: int, limits: MediaLimits) -> None:
    most = limits.max_seconds * MAX_SAMPLES_A_SECOND
    if num_samples > most:
        raise MediaError(
            f"audio: has {num_samples:,} samples in all of its channels; the limit is {most:,.0f}, or "
            f"{MAX_SAMPLES_A_SECOND:,} for each second of limits.max_seconds."
        )
