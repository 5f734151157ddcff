"""A transcript in the formats of OpenAI's API: `json`, `text`, `verbose_json`, `srt` and `vtt`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ray_pipelines.serve.refusals import Refused

__all__ = ["transcript"]


def transcript(result: Mapping[str, Any], kind: str) -> tuple[str, str]:
    """The text of an answer and its media type.

    Args:
        result: A `prediction` of automatic-speech-recognition.
        kind: The format.

    Raises:
        Refused: 400: there is no such format.
    """
    chunks = result["chunks"] or []
    if kind == "text":
        return result["text"] + "\n", "text/plain"
    if kind == "json":
        return json.dumps({"text": result["text"]}), "application/json"
    if kind == "verbose_json":
        return json.dumps(_verbose(result["text"], chunks)), "application/json"
    if kind in ("srt", "vtt"):
        lines = ["WEBVTT", ""] if kind == "vtt" else []
        for number, chunk in enumerate(chunks, start=1):
            lines += [str(number)] if kind == "srt" else []
            lines += [f"{_clock(chunk['start'], kind)} --> {_clock(chunk['end'], kind)}", chunk["text"].strip(), ""]
        return "\n".join(lines) + "\n", "text/plain"
    raise Refused(400, "response_format: expected json, text, verbose_json, srt or vtt.")


def _verbose(text: str, chunks: list[Mapping[str, Any]]) -> dict[str, Any]:
    segments = [
        {"id": number, "start": chunk["start"], "end": chunk["end"], "text": chunk["text"]}
        for number, chunk in enumerate(chunks)
    ]
    languages = [chunk["language"] for chunk in chunks if chunk.get("language")]
    ends = [chunk["end"] for chunk in chunks if chunk["end"] is not None]
    return {
        "task": "transcribe",
        "language": languages[0] if languages else "",
        "duration": max(ends, default=0.0),
        "text": text,
        "segments": segments,
        "words": [{"word": chunk["text"], "start": chunk["start"], "end": chunk["end"]} for chunk in chunks],
    }


def _clock(seconds: float | None, kind: str) -> str:
    """Hours, minutes, seconds and thousandths.

    >>> _clock(3661.5, "srt"), _clock(0.25, "vtt")
    ('01:01:01,500', '00:00:00.250')
    """
    thousandths = round((seconds or 0.0) * 1000)
    rest, thousandths = divmod(thousandths, 1000)
    minutes, whole = divmod(rest, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{whole:02}{',' if kind == 'srt' else '.'}{thousandths:03}"
