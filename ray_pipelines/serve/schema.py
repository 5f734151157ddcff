"""The OpenAPI document of an endpoint: its task's typed inputs and parameters, and every route that it has."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ray_pipelines.serve.openai import openai_routes
from ray_pipelines.serve.parameters import parameter_names
from ray_pipelines.serve.rows import MEDIA
from ray_pipelines.tasks import Field, Task

if TYPE_CHECKING:
    from ray_pipelines.serve.endpoint import Endpoint

__all__ = ["openapi_document"]

TEMPLATE = r"^[^{}]*\{\}[^{}]*$"
BASE64 = {"type": "string", "contentEncoding": "base64", "description": "An encoded file in base64."}
TEXT = {"type": "string"}
SHAPES: Mapping[str, Any] = {
    "table": {"type": "object", "minProperties": 1, "additionalProperties": {"type": "array", "items": TEXT}},
    "query": TEXT,
    "speaker_embeddings": {"type": "array", "items": {"type": "number"}},
}
"""Of fields that are no texts, numbers or files."""
CHOICES: Mapping[str, Any] = {
    "candidate_labels": {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
    "questions": {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": {"$ref": "#/components/schemas/Question"},
    },
}
"""What a row brings or all rows share, and must have: here it stands among the parameters."""
REFUSALS = {
    "400": "The body cannot be read.",
    "401": "A key is missing or wrong.",
    "413": "The request is too large.",
    "422": "An input or a parameter is wrong; the message names it.",
    "429": "The endpoint is busy; Retry-After says for how long.",
    "500": "The model failed.",
    "504": "The request took too long.",
}
BODIES: dict[str, Any] = {
    "/v1/chat/completions": {
        "type": "object",
        "required": ["messages"],
        "properties": {
            "messages": {"type": "array", "minItems": 1, "items": {"type": "object"}},
            "max_tokens": {"type": "integer", "minimum": 1},
            "temperature": {"type": "number", "minimum": 0, "maximum": 2},
            "stream": {"type": "boolean"},
        },
    },
    "/v1/completions": {
        "type": "object",
        "required": ["prompt"],
        "properties": {"prompt": TEXT, "max_tokens": {"type": "integer", "minimum": 1}, "stream": {"type": "boolean"}},
    },
    "/v1/embeddings": {
        "type": "object",
        "required": ["input"],
        "properties": {
            "input": {"anyOf": [TEXT, {"type": "array", "minItems": 1, "items": TEXT}]},
            "dimensions": {"type": "integer", "minimum": 1},
            "encoding_format": {"enum": ["float", "base64"]},
        },
    },
    "/v1/audio/speech": {
        "type": "object",
        "required": ["input"],
        "properties": {"input": TEXT, "response_format": {"enum": ["wav", "flac", "mp3", "opus", "pcm"]}},
    },
}


def openapi_document(endpoint: Endpoint) -> dict[str, Any]:
    """The document, OpenAPI 3.1."""
    task = endpoint.task
    parameters, definitions = _parameters(task, endpoint.serving.parameters)
    body = {
        "type": "object",
        "required": ["inputs", *(["parameters"] if "required" in parameters else [])],
        "additionalProperties": False,
        "properties": {"inputs": _inputs(task), "parameters": parameters, "stream": {"type": "boolean"}},
    }
    content: dict[str, Any] = {"application/json": {"schema": body}}
    if task.inputs[0].modality in MEDIA and len(task.required_inputs) == 1:
        content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    paths: dict[str, Any] = {
        "/": {"post": _operation(task.summary, {"required": True, "content": content})},
        "/health": {"get": _operation("Whether the endpoint lives.")},
        "/info": {"get": _operation("What the endpoint is.")},
    }
    for path, _, method in openai_routes(endpoint):
        operation = _operation("As in OpenAI's API.", _body_of(path))
        if "{" in path:
            path = path.replace(":path", "")
            operation["parameters"] = [{"name": "model", "in": "path", "required": True, "schema": TEXT}]
        paths.setdefault(path, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{task.name}: {endpoint.model_id}",
            "version": version("ray-pipelines"),
            "description": task.summary,
        },
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


def _parameters(task: Task, own: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of the parameters that a client may set, and the definitions that it refers to.

    Args:
        task: The task.
        own: The endpoint's parameters, which stand where a client sends none.
    """
    schema = task.parameters.model_json_schema(ref_template="#/components/schemas/{model}")
    definitions = schema.pop("$defs", {})
    allowed = set(parameter_names(task))
    schema["properties"] = {name: value for name, value in schema.get("properties", {}).items() if name in allowed}
    schema.pop("required", None)
    if "hypothesis_template" in schema["properties"]:
        schema["properties"]["hypothesis_template"]["pattern"] = TEMPLATE
    needed = [field.name for field in task.inputs if field.name in CHOICES]
    schema["properties"] |= {name: CHOICES[name] for name in needed}
    if any(not own.get(name) for name in needed):
        schema["required"] = needed
    return schema, definitions


def _inputs(task: Task) -> dict[str, Any]:
    required = [field for field in task.inputs if field.required]
    fields = {
        "type": "object",
        "required": [field.name for field in required],
        "properties": {field.name: _field(field) for field in task.inputs if field.name not in CHOICES},
    }
    return {"anyOf": [_field(required[0]), fields]} if len(required) == 1 else fields


def _field(field: Field) -> dict[str, Any]:
    if field.modality == "text":
        return {**TEXT, "description": field.description}
    if field.modality == "chat":
        return {"anyOf": [TEXT, {"type": "array", "items": {"type": "object"}}], "description": field.description}
    if field.modality == "images":
        return {"anyOf": [BASE64, {"type": "array", "items": BASE64}], "description": field.description}
    if field.modality in MEDIA:
        return {**BASE64, "description": field.description}
    if field.modality == "number":
        return {"type": "number", "description": field.description}
    return {**SHAPES.get(field.name, {}), "description": field.description}


def _body_of(path: str) -> dict[str, Any] | None:
    if path == "/v1/audio/transcriptions":
        form = {
            "type": "object",
            "required": ["file"],
            "properties": {"file": {"type": "string", "format": "binary"}, "response_format": TEXT},
        }
        return {"required": True, "content": {"multipart/form-data": {"schema": form}}}
    if path not in BODIES:
        return None
    return {"required": True, "content": {"application/json": {"schema": BODIES[path]}}}


def _operation(summary: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": {"description": "The result."}}
    if body is not None:
        responses |= {status: {"description": text} for status, text in REFUSALS.items()}
    operation: dict[str, Any] = {"summary": summary, "responses": responses}
    if body is not None:
        operation["requestBody"] = body
    return operation
