"""What a client of Hugging Face's Inference API sends, made into the fields of rows.

A body is JSON, `{"inputs": …, "parameters": {…}}`, or, for tasks that take one picture, recording or video, the
encoded file itself (clients send it without a content type). What stands in JSON in place of a file is base64, plain
or as a `data:` URI.

Source of what clients send: `huggingface_hub` 2.4, `inference/_client.py` and `_providers/hf_inference.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray_pipelines.serve.client_json import json_of
from ray_pipelines.serve.config import ClientLimits
from ray_pipelines.serve.refusals import Refused
from ray_pipelines.serve.rows import MEDIA, Fetch, RowReader, takes_chats
from ray_pipelines.tasks import Task

__all__ = ["Call", "parse_body", "parse_call"]

IN_PARAMETERS = ("candidate_labels", "word_boxes", "src_lang", "tgt_lang", "text_pair", "speaker_id", "prompt",
                 "speaker_embeddings", "questions")  # fmt: skip
"""Fields of a row that clients send among the parameters, or beside `inputs`."""
OUTER = {"inputs", "parameters", "stream", "options", "model"}


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

    JSON sent as text, as JavaScript's `fetch` does unless it is told not to, is JSON if it is an object with inputs.

    Raises:
        Refused: 400 or 415: it is neither JSON nor a file that this task takes.
    """
    kind = (content_type or "").partition(";")[0].strip().lower()
    medium = task.inputs[0] if task.inputs[0].modality in MEDIA else None
    if kind.startswith("text/") and medium is None:
        return _object_in_text(body) or {"inputs": _text(body)}
    if not body:
        raise Refused(400, 'The body is empty; expected {"inputs": …}.')
    looks_like_json = body.lstrip()[:1] in (b"{", b"[", b'"')
    if "json" in kind or (looks_like_json and not kind.startswith(("image/", "audio/", "video/"))):
        return _json_body(body)
    if medium is not None and len([field for field in task.inputs if field.required]) == 1:
        return {"inputs": body}
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
    rows = tuple(RowReader(task, limits, fetch).read(item, shared) for item in items)
    return Call(rows, is_list, parameters, stream=body.get("stream") is True, sentences=sentences)


def _is_list_of_inputs(task: Task, inputs: Any) -> bool:
    if not isinstance(inputs, list):
        return False
    first = task.inputs[0].modality
    if takes_chats(task, task.inputs[0]):
        return not (inputs and isinstance(inputs[0], Mapping) and "role" in inputs[0])
    return not (first == "audio" and inputs and isinstance(inputs[0], int | float))


def _json_body(body: bytes) -> Mapping[str, Any]:
    values = json_of(body)
    if isinstance(values, str | list):
        return {"inputs": values}
    if not isinstance(values, dict):
        raise Refused(400, 'expected {"inputs": …}.')
    return values


def _object_in_text(body: bytes) -> Mapping[str, Any] | None:
    if body.lstrip()[:1] != b"{":
        return None
    try:
        values = json_of(body)
    except Refused:
        return None
    return values if "inputs" in values else None


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused(400, "expected text in UTF-8.") from None
