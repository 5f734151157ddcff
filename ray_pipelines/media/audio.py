"""Recordings: encoded bytes, paths and samples to one channel of float32 at the model's rate.

Decoding is libsndfile's (WAV, FLAC, OGG, MP3, …), resampling soxr's. Channels are averaged, as ffmpeg does for
`transformers`.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from ray_pipelines.errors import InvalidInput, MediaError
from ray_pipelines.media import read_bytes
from ray_pipelines.media.limits import MediaLimits

__all__ = ["load_audio"]


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
    if isinstance(value, dict) and (value.get("array") is not None or value.get("raw") is not None):
        rate = value.get("sampling_rate")
        samples = _samples(value["array"] if value.get("array") is not None else value["raw"])
        if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float | np.number) or rate <= 0):
            raise InvalidInput(f"audio: expected a positive sampling_rate; got {rate!r}.")
        return _resample(samples, int(rate) if rate is not None else sampling_rate, sampling_rate, limits)
    if isinstance(value, list | tuple | np.ndarray) or hasattr(value, "numpy"):
        return _resample(_samples(value), sampling_rate, sampling_rate, limits)
    samples, rate = _decode_audio(read_bytes(value, "audio", limits), limits)
    return _resample(samples, rate, sampling_rate, limits)


def _samples(value: Any) -> np.ndarray:
    """The samples as they are, checked: `float32[n]`, or of the array's own dtype if it is not float64."""
    try:
        array = value.numpy(force=True) if hasattr(value, "numpy") else np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"audio: expected an array of samples: {error}.") from None
    if array.dtype.kind not in "fiu":
        raise InvalidInput(f"audio: expected an array of numbers; got {array.dtype}.")
    if array.ndim != 1:
        raise InvalidInput(f"audio: expected one channel of samples; got an array of shape {list(array.shape)}.")
    if array.size == 0:
        raise InvalidInput("audio: expected samples; got an empty array.")
    if not np.isfinite(array).all():
        raise InvalidInput("audio: expected finite samples; got NaN or infinity.")
    return array.astype(np.float32)


def _decode_audio(data: bytes, limits: MediaLimits) -> tuple[np.ndarray, int]:
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            _check_seconds(file.frames / file.samplerate, limits)
            samples = file.read(dtype="float32", always_2d=True)
            rate = int(file.samplerate)
    except soundfile.SoundFileError as error:
        raise MediaError(f"audio: cannot be decoded: {str(error).rstrip('.')}.") from None
    if len(samples) == 0:
        raise MediaError("audio: has no samples.")
    return samples.mean(axis=1), rate


def _resample(samples: np.ndarray, rate: int | None, target_rate: int | None, limits: MediaLimits) -> np.ndarray:
    if rate:
        _check_seconds(len(samples) / rate, limits)
    if not rate or not target_rate or rate == target_rate:
        return samples
    import soxr

    return np.asarray(soxr.resample(samples, rate, target_rate), dtype=np.float32)


def _check_seconds(seconds: float, limits: MediaLimits) -> None:
    if seconds > limits.max_seconds:
        raise MediaError(
            f"audio: lasts {seconds:,.1f} s; the limit is {limits.max_seconds:,.1f} s (limits.max_seconds)."
        )
