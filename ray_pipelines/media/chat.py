"""Chats whose messages hold images, videos and recordings, as parts of their content.

A part is `{type: text, text}`, or `{type: image | video | audio, …}`; the medium stands under its type's name or one of
`SOURCES`, in any form that `ray_pipelines.media` takes. A part without any is a place for one of the row's own media.
"""

from __future__ import annotations

from typing import Any

from ray_pipelines.errors import InvalidInput
from ray_pipelines.media.audio import load_audio
from ray_pipelines.media.image import load_image
from ray_pipelines.media.limits import MediaLimits
from ray_pipelines.media.messages import parse_chat
from ray_pipelines.media.video import load_video

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
    if kind not in ("image", "video", "audio"):
        raise InvalidInput(f"text: expected parts of type text, image, video or audio; got {kind!r:.40}.")
    source = next((part[name] for name in (kind, *SOURCES) if part.get(name) is not None), None)
    if source is None:
        return {"type": kind}
    if kind == "audio":
        return {"type": "audio", "audio": load_audio(source, limits, sampling_rate)}
    return {"type": kind, kind: load_image(source, limits) if kind == "image" else load_video(source, limits)}
