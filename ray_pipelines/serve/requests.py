"""What a client of Hugging Face's Inference API sends, made into the fields of rows.

A body is JSON, `{"inputs": …, "parameters": {…}}`, or, for tasks that take one picture, recording or video, the
encoded file itself (clients send it without a content type). What stands in JSON in place of a file is base64, plain
or as a `data:` URI. A string is never opened as a path or a URL: the bytes are decoded here, and only bytes go on.

Source of what clients send: `huggingface_hub` 2.4, `inference/_client.py` and `_providers/hf_inference.py`.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray_pipelines.media.image import num_pixels
from ray_pipelines.serve.config import ClientLimits
from ray_pipelines.serve.refusals import Refused
from ray_pipelines.tasks import Field, Task

__all__ = ["Call", "json_object", "parse_body", "parse_call", "safe_value"]

MEDIA = ("image", "images", "named images", "audio", "video", "videos")
IN_PARAMETERS = ("candidate_labels", "word_boxes", "src_lang", "tgt_lang", "text_pair", "speaker_id", "prompt",
                 "speaker_embeddings", "questions")  # fmt: skip
"""Fields of a row that clients send among the parameters, or beside `inputs`."""
OUTER = {"inputs", "parameters", "stream", "options", "model"}
FIELD_ALIASES = {"inputs": "text", "images": "image", "audios": "audio", "videos": "video"}
MAX_DEPTH = 16
MAX_ENTRIES = 100_000
MAX_BRACKETS = 500_000
"""Lists and mappings of a body, which take twenty times the memory of their text."""
MAX_MEDIA = 64
"""Pictures, recordings and videos of one input."""
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

Fetch = Callable[[str], bytes]
"""Gives the bytes behind a URL that the operator allows, or raises `Refused`."""


@dataclass(frozen=True)
class Call:
    """One request.

    Attributes:
        rows: The fields of each input; media are bytes.
        is_list: The client sent a list of inputs, and gets a list of results.
        parameters: As the client sent them.
        stream: Answer with an event per token.
        sentences: The request is for the similarity of the first row to all others.
    """

    rows: tuple[dict[str, Any], ...]
    is_list: bool
    parameters: Mapping[str, Any]
    stream: bool = False
    sentences: bool = False


def parse_body(task: Task, content_type: str | None, body: bytes) -> Mapping[str, Any]:
    """The body as `{"inputs", "parameters", …}`; of a bare file or text, the inputs alone.

    Raises:
        Refused: 400 or 415: it is neither JSON nor a file that this task takes.
    """
    kind = (content_type or "").partition(";")[0].strip().lower()
    medium = task.inputs[0] if task.inputs[0].modality in MEDIA else None
    if kind.startswith("text/") and medium is None:
        return {"inputs": _text(body)}
    looks_like_json = body.lstrip()[:1] in (b"{", b"[", b'"')
    if "json" in kind or (looks_like_json and not kind.startswith(("image/", "audio/", "video/"))):
        return _json_body(body)
    if medium is not None and body and len([field for field in task.inputs if field.required]) == 1:
        return {"inputs": body}
    if not body:
        raise Refused(400, 'The body is empty; expected {"inputs": …}.')
    raise Refused(415, f'{task.name} takes JSON: {{"inputs": …, "parameters": {{…}}}}.')


def parse_call(task: Task, body: Mapping[str, Any], limits: ClientLimits, fetch: Fetch | None = None) -> Call:
    """The rows and parameters of a request.

    Args:
        task: The task.
        body: What `parse_body` gave.
        limits: What a request may ask for.
        fetch: Fetches from hosts that the operator allows; None if there are none.

    Raises:
        Refused: 400 or 422 with the field that is wrong.
    """
    if "inputs" not in body and not any(field.name in body for field in task.inputs):
        raise Refused(400, 'expected {"inputs": …}.')
    parameters = body.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        raise Refused(422, "parameters: expected a mapping.")
    names = {field.name for field in task.inputs}
    beside = {name: value for name, value in body.items() if name not in OUTER}
    parameters = {**parameters, **{name: value for name, value in beside.items() if name not in names}}
    parameters.pop("model", None)
    shared = {name: value for name, value in beside.items() if name in names}
    for name in IN_PARAMETERS:
        if name in names and parameters.get(name) is not None:
            shared[name] = parameters.pop(name)
    inputs: Any = body.get("inputs")
    sentences = task.name == "feature-extraction" and isinstance(inputs, Mapping) and "source_sentence" in inputs
    if sentences:
        listed = inputs.get("sentences")
        if not isinstance(listed, list):
            raise Refused(422, "inputs.sentences: expected a list of strings.")
        inputs = [inputs["source_sentence"], *listed]
    is_list = _is_list_of_inputs(task, inputs)
    items = list(inputs) if is_list else [inputs]
    if not items or len(items) > limits.max_inputs:
        raise Refused(422, f"inputs: expected 1 to {limits.max_inputs:,} inputs; got {len(items):,}.")
    rows = tuple(_Row(task, limits, fetch).read(item, shared) for item in items)
    return Call(rows, is_list, parameters, stream=body.get("stream") is True, sentences=sentences)


def _is_list_of_inputs(task: Task, inputs: Any) -> bool:
    if not isinstance(inputs, list):
        return False
    first = task.inputs[0].modality
    if _takes_chats(task, task.inputs[0]):
        return not (inputs and isinstance(inputs[0], Mapping) and "role" in inputs[0])
    return not (first == "audio" and inputs and isinstance(inputs[0], int | float))


def _takes_chats(task: Task, field: Field) -> bool:
    """Whether a value of the field may be a list of messages."""
    return field.modality == "chat" or (task.name == "text-generation" and field.name == "text")


@dataclass
class _Row:
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
        return {name: self.value(self.task.field(name), value) for name, value in fields.items() if value is not None}

    def value(self, field: Field, value: Any) -> Any:
        if _takes_chats(self.task, field):
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
        return self._checked_value(value, field.name)

    def _checked_value(self, value: Any, name: str) -> Any:
        checked, num_chars = safe_value(value, name, self.limits.max_text_chars - self.num_chars)
        self.num_chars += num_chars
        return checked

    def _named_files(self, value: Any, field: Field) -> dict[str, bytes]:
        if not isinstance(value, Mapping):
            raise Refused(422, f"{field.name}: expected files by name; got {_kind(value)}.")
        names = [self._checked_text(name, field.name) for name in value]
        return dict(zip(names, [self._file(one, field) for one in value.values()], strict=True))

    def _labels(self, value: Any) -> list[str]:
        labels = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
            raise Refused(422, "candidate_labels: expected a list of strings.")
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


def _own(name: str, names: set[str]) -> str:
    return FIELD_ALIASES.get(name, name) if name not in names else name


def safe_value(value: Any, name: str, max_chars: int) -> tuple[Any, int]:
    """JSON of any shape, within bounds of depth and size, and the number of characters in it.

    Raises:
        Refused: It is deeper or larger than any honest request.
    """
    num_chars = 0

    def checked(value: Any, depth: int) -> Any:
        nonlocal num_chars
        if depth > MAX_DEPTH:
            raise Refused(422, f"{name}: is nested too deeply.")
        if isinstance(value, Mapping | list) and len(value) > MAX_ENTRIES:
            raise Refused(413, f"{name}: has too many entries.")
        if isinstance(value, Mapping):
            return {checked(str(key), depth): checked(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [checked(item, depth + 1) for item in value]
        if isinstance(value, str):
            num_chars += len(value)
            if num_chars > max_chars:
                raise Refused(413, f"{name}: expected fewer characters.")
            return value
        if value is None or isinstance(value, int | float):
            return value
        raise Refused(422, f"{name}: expected JSON.")

    return checked(value, 0), num_chars


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body.

    Raises:
        Refused: 400 or 413: it is none, or larger than any honest request.
    """
    values = _json(body)
    if not isinstance(values, dict):
        raise Refused(400, "expected a JSON object.")
    return values


def _json(body: bytes) -> Any:
    """The JSON in a body: UTF-8, finite numbers, whole characters.

    Raises:
        Refused: 400: it is none; 413: it has more lists and mappings than any honest request.
    """
    if body.count(b"[") + body.count(b"{") > MAX_BRACKETS:
        raise Refused(413, "The body has too many lists and mappings.")
    try:
        values = json.loads(body.decode("utf-8"), parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError):
        raise Refused(400, "The body is not valid JSON.") from None
    return _whole_characters(values) if SURROGATE.search(body) else values


def _no_number(constant: str) -> None:
    raise ValueError(constant)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _whole_characters(value: Any) -> Any:
    """`value` with a question mark in place of each half of a character, which no tokenizer takes."""
    if isinstance(value, dict):
        return {_whole_characters(key): _whole_characters(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole_characters(item) for item in value]
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value


def _json_body(body: bytes) -> Mapping[str, Any]:
    values = _json(body)
    if isinstance(values, str | list):
        return {"inputs": values}
    if not isinstance(values, dict):
        raise Refused(400, 'expected {"inputs": …}.')
    return values


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused(400, "expected text in UTF-8.") from None


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
