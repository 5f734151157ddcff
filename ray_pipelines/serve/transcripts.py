"""A transcript in the formats of OpenAI's API: `json`, `text`, `verbose_json`, `srt` and `vtt`."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

__all__ = ["FORMATS", "TIMED", "language_name", "transcript"]

TIMED = ("verbose_json", "srt", "vtt")
"""Formats that say when what was spoken."""
FORMATS = ("json", "text", *TIMED)
MAX_SEGMENT_CHARS, MAX_SEGMENT_S, PAUSE_S = 80, 7.0, 1.0
"""Words become segments of two lines of a subtitle, which end with a sentence or before a pause."""


def transcript(
    result: Mapping[str, Any],
    kind: str,
    duration_s: float = 0.0,
    language: str | None = None,
    words: bool = False,
    granularities: Collection[str] = ("segment",),
) -> tuple[str, str]:
    """The text of an answer and its media type.

    Args:
        result: A `prediction` of automatic-speech-recognition.
        kind: One of `FORMATS`.
        duration_s: How long the recording lasts.
        language: What the client said is spoken.
        words: Whether the chunks of the result are words.
        granularities: What `verbose_json` lists: `segment`, `word`, or both.
    """
    if kind == "text":
        return result["text"] + "\n", "text/plain"
    if kind == "json":
        return json.dumps({"text": result["text"]}), "application/json"
    chunks = _timed(result["chunks"] or [], duration_s)
    segments = _segments(chunks, result["text"]) if words else chunks
    if kind == "verbose_json":
        heard = next((chunk["language"] for chunk in result["chunks"] or [] if chunk.get("language")), "")
        answer = {
            "task": "transcribe",
            "language": language_name(language) if language else heard,
            "duration": duration_s,
            "text": result["text"],
        }
        if "segment" in granularities:
            answer["segments"] = [{"id": number, **segment} for number, segment in enumerate(segments)]
        if "word" in granularities:
            answer["words"] = [{"word": c["text"].strip(), "start": c["start"], "end": c["end"]} for c in chunks]
        return json.dumps(answer), "application/json"
    lines = ["WEBVTT", ""] if kind == "vtt" else []
    for number, chunk in enumerate(segments, start=1):
        lines += [str(number)] if kind == "srt" else []
        lines += [f"{_clock(chunk['start'], kind)} --> {_clock(chunk['end'], kind)}", chunk["text"].strip(), ""]
    return "\n".join(lines) + "\n", "text/plain"


def language_name(language: str) -> str:
    """A language as Whisper names it, from its name or code.

    >>> language_name("en"), language_name("German"), language_name("tlh")
    ('english', 'german', 'tlh')
    """
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    return str(LANGUAGES.get(language.lower(), language.lower()))


def _timed(chunks: Sequence[Mapping[str, Any]], duration_s: float) -> list[dict[str, Any]]:
    """The chunks as `{text, start, end}` within the recording; without an end, one lasts until the next begins.

    >>> _timed([{"text": "a", "start": 0.5, "end": None}, {"text": "b", "start": 2.0, "end": None}], 3.0)
    [{'text': 'a', 'start': 0.5, 'end': 2.0}, {'text': 'b', 'start': 2.0, 'end': 3.0}]
    """
    timed, next_s = [], duration_s
    for chunk in reversed(chunks):
        end = next_s if chunk["end"] is None else min(chunk["end"], duration_s)
        start = min(end, next_s) if chunk["start"] is None else min(chunk["start"], duration_s)
        timed.append({"text": chunk["text"], "start": start, "end": max(start, end)})
        next_s = start
    return timed[::-1]


def _segments(words: Sequence[Mapping[str, Any]], text: str) -> list[dict[str, Any]]:
    """The words of a text as segments.

    >>> words = [{"text": word, "start": time, "end": time + 1} for word, time in (("So.", 0), ("And", 1), ("so", 9))]
    >>> [segment["text"] for segment in _segments(words, "So. And so")]
    ['So.', 'And', 'so']
    """
    between = "" if "".join(word["text"] for word in words).strip() == text.strip() else " "
    segments: list[dict[str, Any]] = []
    for word in words:
        last = segments[-1] if segments else None
        if last is not None and _goes_on(last, word):
            last |= {"text": f"{last['text']}{between}{word['text']}", "end": word["end"]}
        else:
            segments.append(dict(word))
    return segments


def _goes_on(segment: Mapping[str, Any], word: Mapping[str, Any]) -> bool:
    return (
        not segment["text"].rstrip().endswith((".", "?", "!", "。", "？", "！"))
        and word["start"] - segment["end"] < PAUSE_S
        and word["end"] - segment["start"] <= MAX_SEGMENT_S
        and len(segment["text"]) + len(word["text"]) < MAX_SEGMENT_CHARS
    )


def _clock(seconds: float, kind: str) -> str:
    """Hours, minutes, seconds and thousandths.

    >>> _clock(3661.5, "srt"), _clock(0.25, "vtt")
    ('01:01:01,500', '00:00:00.250')
    """
    rest, thousandths = divmod(round(seconds * 1000), 1000)
    minutes, whole = divmod(rest, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{whole:02}{',' if kind == 'srt' else '.'}{thousandths:03}"
