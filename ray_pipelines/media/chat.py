"""Chats whose messages hold images and recordings, as parts of their content.

A part is `{type: text, text}`, `{type: image, …}` or `{type: audio, …}`; the medium stands under one of `SOURCES`, in
any form that `ray_pipelines.media` takes. A part of type `image` without any is a place for one of the row's `images`.
"""

from __future__ import annotations

from typing import Any

from ray_pipelines.errors import InvalidInput
from ray_pipelines.media.audio import load_audio
from ray_pipelines.media.image import load_image
from ray_pipelines.media.limits import MediaLimits
from ray_pipelines.media.messages import parse_chat

__all__ = ["load_chat"]

SOURCES = ("url", "path", "base64", "bytes")


def load_chat(value: Any, limits: MediaLimits, sampling_rate: int | None) -> Any:
    """A text as it is, or the messages of a chat with decoded media; every content is a list of parts.

    Args:
        value: A text or a list of messages.
        limits: What decoding may cost.
        sampling_rate: The model's rate in Hz, to which recordings are resampled.

    Raises:
        InvalidInput: It is neither, or has a part that no decoder takes.
        MediaError: A medium cannot be decoded, or is over a limit.
    """
    if isinstance(value, str):
        return value
    messages = parse_chat(value)
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
        message["content"] = [_load_part(part, limits, sampling_rate) for part in parts]
    return messages


def _load_part(part: dict[str, Any], limits: MediaLimits, sampling_rate: int | None) -> dict[str, Any]:
    kind = part["type"]
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise InvalidInput("text: expected a text in each part of type text; got none.")
        return {"type": "text", "text": part["text"]}
    if kind not in ("image", "audio"):
        raise InvalidInput(f"text: expected parts of type text, image or audio; got {kind!r:.40}.")
    source = next((part[name] for name in (kind, *SOURCES) if part.get(name) is not None), None)
    if kind == "audio":
        if source is None:
            raise InvalidInput("text: expected a recording in each part of type audio; got none.")
        return {"type": "audio", "audio": load_audio(source, limits, sampling_rate)}
    return {"type": "image"} if source is None else {"type": "image", "image": load_image(source, limits)}
