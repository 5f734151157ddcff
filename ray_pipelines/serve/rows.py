"""The fields of one input as a client sends it: texts, choices, chats, and files in base64.

A string is never opened as a path or a URL: the bytes are decoded here, and only bytes go on.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray_pipelines.media.containers import is_well_known
from ray_pipelines.media.image import num_pixels
from ray_pipelines.serve.client_json import json_of, safe_value
from ray_pipelines.serve.config import ClientLimits
from ray_pipelines.serve.refusals import Refused
from ray_pipelines.tasks import Field, Task

__all__ = ["MEDIA", "Fetch", "RowReader", "takes_chats"]

MEDIA = ("image", "images", "named images", "audio", "video", "videos")
FIELD_ALIASES = {"inputs": "text", "images": "image", "audios": "audio", "videos": "video"}
MAX_MEDIA = 64
"""Pictures, recordings and videos of one input."""

Fetch = Callable[[str], bytes]
"""Gives the bytes behind a URL that the operator allows, or raises `Refused`."""


def takes_chats(task: Task, field: Field) -> bool:
    """Whether a value of the field may be a list of messages."""
    return field.modality == "chat" or (task.name == "text-generation" and field.name == "text")


@dataclass
class RowReader:
    """Reads the fields of one row, and counts what is in all of them together."""

    task: Task
    limits: ClientLimits
    fetch: Fetch | None
    num_chars: int = 0
    num_media: int = 0
    num_pixels: int = 0

    def read(self, item: Any, shared: Mapping[str, Any]) -> dict[str, Any]:
        fields = dict(shared)
        first = self.task.inputs[0]
        names = {field.name for field in self.task.inputs}
        if isinstance(item, Mapping) and first.modality != "any" and (names & {_own(name, names) for name in item}):
            fields |= {_own(name, names): value for name, value in item.items()}
        elif isinstance(item, Mapping) and names & item.keys():
            fields |= item
        elif item is not None:
            fields[first.name] = item
        unknown = [name for name in fields if name not in names]
        if unknown:
            raise Refused(422, f"inputs.{str(unknown[0])[:40]}: is not known; {self.task.name} has "
                               f"{', '.join(sorted(names))}.")  # fmt: skip
        row = {name: self.value(self.task.field(name), value) for name, value in fields.items() if value is not None}
        if "table" in row:
            self._check_table(row)
        return row

    def value(self, field: Field, value: Any) -> Any:
        if takes_chats(self.task, field):
            return self._checked_text(value, field.name) if isinstance(value, str) else self._chat(value)
        if field.modality == "text":
            return self._checked_text(value, field.name)
        if field.modality in ("images", "videos"):
            return [self._file(one, field) for one in (value if isinstance(value, list) else [value])]
        if field.modality == "named images":
            return self._named_files(value, field)
        if field.modality == "audio" and isinstance(value, Mapping) and "array" in value:
            return {"array": _samples(value["array"]), "sampling_rate": _rate(value)}
        if field.modality in MEDIA:
            return self._file(value, field)
        if field.name == "candidate_labels":
            return self._labels(value)
        if field.name == "questions" and isinstance(value, str):
            value = json_of(self._checked_text(value, field.name).encode(), "questions:")
        return self._checked_value(value, field.name)

    def _checked_value(self, value: Any, name: str) -> Any:
        checked, num_chars = safe_value(value, name, self.limits.max_text_chars - self.num_chars)
        self.num_chars += num_chars
        return checked

    def _check_table(self, row: Mapping[str, Any]) -> None:
        """A table is made into tokens whole, once for each question, however few of its rows the model takes."""
        queries = row.get("query")
        num_queries = len(queries) if isinstance(queries, list) else 1
        num_chars = len(json.dumps(row["table"], ensure_ascii=False)) * num_queries
        most = self.limits.max_table_chars
        if num_chars > most:
            raise Refused(
                413,
                f"table: expected at most {most:,} characters, times the number of questions; got {num_chars:,}. Send "
                "fewer rows, or fewer questions at once.",
            )

    def _named_files(self, value: Any, field: Field) -> dict[str, bytes]:
        if not isinstance(value, Mapping):
            raise Refused(422, f"{field.name}: expected files by name; got {_kind(value)}.")
        names = [self._checked_text(name, field.name) for name in value]
        return dict(zip(names, [self._file(one, field) for one in value.values()], strict=True))

    def _labels(self, value: Any) -> list[str]:
        labels = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
            raise Refused(422, "candidate_labels: expected a list of strings.")
        if not all(map(str.strip, labels)):
            raise Refused(422, "candidate_labels: expected labels that are not empty.")
        if len(labels) > self.limits.max_labels:
            raise Refused(422, f"candidate_labels: expected at most {self.limits.max_labels:,}; got {len(labels):,}.")
        return [self._checked_text(label, "candidate_labels") for label in labels]

    def _checked_text(self, value: Any, name: str) -> str:
        if not isinstance(value, str):
            raise Refused(422, f"{name}: expected a string; got {_kind(value)}.")
        self.num_chars += len(value)
        if self.num_chars > self.limits.max_text_chars:
            raise Refused(413, f"{name}: expected at most {self.limits.max_text_chars:,} characters; got more.")
        return value

    def _file(self, value: Any, field: Field) -> bytes:
        self.num_media += 1
        if self.num_media > MAX_MEDIA:
            raise Refused(422, f"{field.name}: expected at most {MAX_MEDIA} files in one input.")
        data = self._bytes(value, field)
        if _is_sound(field) and not is_well_known(data):
            raise Refused(
                422, f"{field.name}: expected a recording in WAV, FLAC, OGG, MP3, AIFF, MP4, WebM or the like."
            )
        if field.modality in ("images", "named images", "any"):
            self.num_pixels += num_pixels(data)
            if self.num_pixels > self.limits.max_pixels and self.num_media > 1:
                raise Refused(422, f"{field.name}: expected at most {self.limits.max_pixels:,} pixels in one input.")
        return data

    def _bytes(self, value: Any, field: Field) -> bytes:
        if isinstance(value, Mapping):
            value = next((value[name] for name in ("bytes", "data_base64") if name in value), value)
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str):
            raise Refused(422, f"{field.name}: expected base64; got {_kind(value)}.")
        if value.startswith(("http://", "https://")):
            if self.fetch is None:
                raise Refused(422, f"{field.name}: expected base64; this endpoint opens no URLs.")
            return self.fetch(value)
        return _bytes_of_base64(value, field.name)

    def _chat(self, value: Any) -> list[dict[str, Any]]:
        if not isinstance(value, list) or not value or len(value) > self.limits.max_inputs * 8:
            raise Refused(422, "messages: expected a list of messages {role, content}.")
        return [self._message(message) for message in value]

    def _message(self, message: Any) -> dict[str, Any]:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise Refused(422, "messages: expected messages {role, content}.")
        content = message.get("content")
        if isinstance(content, list):
            content = [self._part(part) for part in content]
        elif content is not None:
            content = self._checked_text(content, "messages.content")
        others = {
            name: self._checked_value(message[name], name)
            for name in ("name", "tool_calls", "tool_call_id")
            if message.get(name) is not None
        }
        return {**others, "role": message["role"][:40], "content": content}

    def _part(self, part: Any) -> dict[str, Any]:
        """A part of a message in the names of `media.chat`; clients use those of OpenAI or of transformers."""
        if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
            raise Refused(422, "messages.content: expected parts {type, …}.")
        kind = part["type"].removesuffix("_url").removeprefix("input_")
        if kind == "text":
            return {"type": "text", "text": self._checked_text(part.get("text"), "messages.content.text")}
        if kind not in ("image", "audio", "video"):
            raise Refused(422, "messages.content: expected parts of type text, image_url, input_audio or video_url.")
        source = next((part[name] for name in (part["type"], kind, "base64", "url", "data") if name in part), None)
        if isinstance(source, Mapping):
            source = source.get("url") or source.get("data") or source
        return {"type": kind, "bytes": self._file(source, Field(f"messages.content.{kind}", "any", ""))}


def _is_sound(field: Field) -> bool:
    return field.modality == "audio" or field.name == "messages.content.audio"


def _own(name: str, names: set[str]) -> str:
    return FIELD_ALIASES.get(name, name) if name not in names else name


def _bytes_of_base64(text: str, name: str) -> bytes:
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        data = base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refused(422, f"{name}: expected base64; got another string. Paths and URLs are not opened.") from None
    if not data:
        raise Refused(422, f"{name}: expected base64 of a file; got an empty string.")
    return data


def _samples(value: Any) -> list[float]:
    if not isinstance(value, list) or not all(isinstance(sample, float) or _is_sample(sample) for sample in value):
        raise Refused(422, "audio.array: expected a list of samples.")
    return value


def _is_sample(value: Any) -> bool:
    return isinstance(value, int) and abs(value) < 1 << 31


def _rate(value: Mapping[str, Any]) -> int:
    rate = value.get("sampling_rate")
    if isinstance(rate, bool) or not isinstance(rate, int) or not 1_000 <= rate <= 400_000:
        raise Refused(422, "audio.sampling_rate: expected a rate in Hz, from 1,000 to 400,000.")
    return rate


def _kind(value: Any) -> str:
    return "null" if value is None else {"dict": "a mapping", "list": "a list"}.get(type(value).__name__, "a number")
