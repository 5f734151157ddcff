"""What all images, recordings and videos of a request cost together, before any is decoded.

Each is within its own limit once it is decoded; a header that lies gains no more than that. What cannot be read costs
nothing: decoding it will say what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ray_pipelines.media.image import num_pixels
from ray_pipelines.serve.config import ClientLimits
from ray_pipelines.serve.refusals import Refused
from ray_pipelines.tasks import Task

__all__ = ["check_totals"]


def check_totals(task: Task, rows: Sequence[Mapping[str, Any]], limits: ClientLimits) -> None:
    """Refuses rows whose media are too much together.

    Raises:
        Refused: 413.
    """
    pixels, frame_pixels, seconds = 0, 0, 0.0
    for kind, value in _media(task, rows):
        if kind == "image":
            pixels += num_pixels(value)
        elif kind == "video":
            frame_pixels += _num_frame_pixels(value)
        else:
            seconds += min(_num_seconds(value), limits.max_seconds)
    for what, total, most in (
        ("pixels in all images", pixels, limits.max_total_pixels),
        ("pixels in all frames of all videos", frame_pixels, limits.max_total_frame_pixels),
        ("seconds of all recordings", seconds, limits.max_total_seconds),
    ):
        if total > most:
            raise Refused(
                413, f"inputs: expected at most {most:,.0f} {what} of one request; got {total:,.0f}. Send less."
            )


def _media(task: Task, rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Each medium of the rows, and whether it is an `image`, `audio` or `video`."""
    for row in rows:
        for name, value in row.items():
            modality = task.field(name).modality
            if modality in ("image", "audio", "video"):
                yield modality, value
            elif modality in ("images", "videos"):
                yield from ((modality[:-1], one) for one in value)
            elif modality == "named images":
                yield from (("image", one) for one in value.values())
            elif isinstance(value, list):
                yield from _in_chat(value)


def _in_chat(messages: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, Mapping) and part.get("type") in ("image", "audio", "video") and "bytes" in part:
                yield part["type"], part["bytes"]


def _num_frame_pixels(data: bytes) -> int:
    from ray_pipelines.media.video import num_decoded_pixels

    return num_decoded_pixels(data)


def _num_seconds(value: Any) -> float:
    from ray_pipelines.media.audio import num_seconds

    if isinstance(value, Mapping):
        return len(value["array"]) / float(value["sampling_rate"])
    return num_seconds(value) or 0.0
