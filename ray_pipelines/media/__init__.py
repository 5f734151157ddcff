"""Bytes to images, samples and frames, within limits.

A media value in a row may be encoded bytes, a Hugging Face `{bytes, path}` struct, a path or URI (opened through
fsspec), or what is already decoded: a PIL image, an array, a `{array, sampling_rate}` struct. `decode` makes of each
what a pipeline's `preprocess` takes, or raises `MediaError`; neither an ffmpeg binary nor torchcodec is needed.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from typing import Any

from ray_pipelines.errors import InvalidInput, InvalidRow, MediaError
from ray_pipelines.media.limits import MediaLimits

__all__ = ["decode", "read_bytes"]

BASE64 = re.compile(r"[A-Za-z0-9+/\s]{46,}={0,2}\s*")
"""Base64 of the smallest image or recording, which is longer than what could be mistaken for a name."""


def decode(value: Any, modality: str, limits: MediaLimits, sampling_rate: int | None = None) -> Any:
    """The decoded form of a field's value: PIL images in RGB, float32 samples, a `Video`, or the value itself.

    Args:
        value: The field's value.
        modality: The field's modality; `image`, `audio`, `video`, `images` and `videos` (one or a list), `named
            images` and the media in a `chat` are decoded.
        limits: What decoding may cost.
        sampling_rate: For audio: the model's rate in Hz, to which recordings are resampled.

    Raises:
        InvalidInput: The value is missing or of a type that no decoder takes.
        MediaError: It cannot be decoded, or is over a limit.
    """
    if modality == "image":
        from ray_pipelines.media.image import load_image

        return load_image(value, limits)
    if modality == "images":
        from ray_pipelines.media.image import load_image

        return [load_image(one, limits) for one in (value if isinstance(value, list | tuple) else [value])]
    if modality == "named images":
        from ray_pipelines.media.image import load_named_images

        return load_named_images(value, limits)
    if modality == "chat":
        from ray_pipelines.media.chat import load_chat

        return load_chat(value, limits, sampling_rate)
    if modality == "audio":
        from ray_pipelines.media.audio import load_audio

        return load_audio(value, limits, sampling_rate)
    if modality == "video":
        from ray_pipelines.media.video import load_video

        return load_video(value, limits)
    if modality == "videos":
        from ray_pipelines.media.video import load_video

        return [load_video(one, limits) for one in (value if isinstance(value, list | tuple) else [value])]
    return value


def read_bytes(value: Any, what: str, limits: MediaLimits) -> bytes:
    """The encoded bytes behind `value`: bytes, a `{bytes, path}` struct, a `data:` URI, base64, or a path or URI.

    Raises:
        InvalidInput: `value` is none of these.
        MediaError: It cannot be read, or is over `limits.max_bytes`.
    """
    if isinstance(value, dict):
        if value.get("bytes") is not None:
            value = value["bytes"]
        elif isinstance(value.get("path"), str | os.PathLike):
            value = value["path"]
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
    elif isinstance(value, str):
        data = _read_string(value, what, limits)
    else:
        got = "null" if value is None else type(value).__name__
        raise InvalidInput(f"{what}: expected encoded bytes, a {{bytes, path}} struct or a path; got {got}.")
    if not data:
        raise MediaError(f"{what}: expected encoded bytes; got an empty value.")
    _check_size(len(data), what, limits)
    return data


def _read_string(value: str, what: str, limits: MediaLimits) -> bytes:
    if value.startswith("data:"):
        return _decode_base64(value.partition(",")[2], what)
    if not value:
        return b""
    import fsspec

    try:
        with fsspec.open(value, "rb") as file:
            _check_size(getattr(file, "size", None) or 0, what, limits)
            data = file.read(limits.max_bytes + 1)
            assert isinstance(data, bytes)
            return data
    except (OSError, ValueError, ImportError) as error:
        if isinstance(error, InvalidRow):
            raise
        if BASE64.fullmatch(value):
            return _decode_base64(value, what)
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        shown = value if len(value) <= 200 else f"{value[:200]}…"
        raise MediaError(f"{what}: cannot open {shown!r}: {reason}.") from error


def _decode_base64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise MediaError(f"{what}: expected base64; got a string that is none.") from None


def _check_size(num_bytes: int, what: str, limits: MediaLimits) -> None:
    if num_bytes > limits.max_bytes:
        raise MediaError(
            f"{what}: has {num_bytes:,} encoded bytes; the limit is {limits.max_bytes:,} (limits.max_bytes)."
        )
