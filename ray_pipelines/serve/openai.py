"""OpenAI's API for the tasks that have a natural form in it.

text-generation, image-text-to-text   /v1/chat/completions, /v1/completions (both also as a stream)
feature-extraction                    /v1/embeddings
automatic-speech-recognition          /v1/audio/transcriptions
text-to-audio                         /v1/audio/speech
all                                   /v1/models, /v1/models/{id}
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ray_pipelines.media.audio import num_seconds
from ray_pipelines.serve.bodies import parse_form
from ray_pipelines.serve.chats import Chats, refuse_unknown
from ray_pipelines.serve.endpoint import Endpoint, first_values
from ray_pipelines.serve.refusals import Refused, input_named, told_as
from ray_pipelines.serve.replies import Payload, encode, encode_recording, response
from ray_pipelines.serve.transcripts import FORMATS, TIMED, transcript

__all__ = ["openai_routes"]

Handler = Callable[[Request, bytes], Awaitable[Response]]

CTC = ("ctc", "ctc_with_lm")
"""Kinds of models that time words alone."""
AS_INPUT = input_named("input")
SPEECH_TYPES = {"wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg", "opus": "audio/ogg", "pcm": "audio/pcm"}


def openai_routes(endpoint: Endpoint) -> list[tuple[str, Handler, str]]:
    """Path, handler and method of each route that the endpoint's task has."""
    api, chats = _Api(endpoint), Chats(endpoint)
    routes: list[tuple[str, Handler, str]] = [
        ("/v1/models", api.models, "GET"),
        ("/v1/models/{model:path}", api.model, "GET"),
    ]
    by_task: dict[str, list[tuple[str, Handler, str]]] = {
        "text-generation": [
            ("/v1/chat/completions", chats.chat, "POST"),
            ("/v1/completions", chats.completions, "POST"),
        ],
        "image-text-to-text": [("/v1/chat/completions", chats.chat, "POST")],
        "feature-extraction": [("/v1/embeddings", api.embeddings, "POST")],
        "automatic-speech-recognition": [("/v1/audio/transcriptions", api.transcriptions, "POST")],
        "text-to-audio": [("/v1/audio/speech", api.speech, "POST")],
    }
    return [*by_task.get(endpoint.task.name, []), *routes]


class _Api:
    """The handlers."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.started_s = int(time.time())

    async def models(self, request: Request, body: bytes) -> Response:
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def model(self, request: Request, body: bytes) -> Response:
        if request.path_params["model"] != self.endpoint.model_id:
            raise Refused(404, "There is no such model here.", "not_found")
        return JSONResponse(self._card())

    def _card(self) -> dict[str, Any]:
        return {
            "id": self.endpoint.model_id,
            "object": "model",
            "created": self.started_s,
            "owned_by": "ray_pipelines",
        }

    # --- vectors

    async def embeddings(self, request: Request, body: bytes) -> Response:
        with told_as(AS_INPUT):
            call, sent = await self.endpoint.parse_object(body, _texts)
        encoding, size = sent.pop("encoding_format", None) or "float", sent.pop("dimensions", None)
        if encoding not in ("float", "base64"):
            raise Refused(400, "encoding_format: expected float or base64.")
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise Refused(400, "dimensions: expected a whole number from 1 on.")
        refuse_unknown(sent, set())
        with told_as(AS_INPUT):
            vectors, tokens = await self.endpoint.embed([row["text"] for row in call.rows], {"normalize": True})
        vectors = [_shortened(vector, size) for vector in vectors]
        data = [
            {"object": "embedding", "index": index, "embedding": _encoded(vector, encoding)}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        answer = {"object": "list", "data": data, "model": self.endpoint.model_id, "usage": usage}
        return response(await encode(lambda: answer, answer, self.endpoint.limits))

    # --- speech

    async def transcriptions(self, request: Request, body: bytes) -> Response:
        form = await parse_form(request.headers.get("content-type"), body)
        file = form.get("file")
        if file is None or isinstance(file, str):
            raise Refused(400, "file: expected a recording.")
        if str(form.get("stream") or "false").lower() != "false":
            raise Refused(400, "stream: is not offered here. Leave it out.")
        kind, language = str(form.get("response_format") or "json"), str(form.get("language") or "")
        if kind not in FORMATS:
            raise Refused(400, f"response_format: expected one of {', '.join(FORMATS)}.")
        granularities = {str(value) for value in form.getlist("timestamp_granularities[]")} or {"segment"}
        if not granularities <= {"segment", "word"}:
            raise Refused(400, "timestamp_granularities: expected segment or word.")
        sent: dict[str, Any] = {}
        if language:
            sent["generate_kwargs"] = {"language": language}
        if form.get("temperature") not in (None, "", "0", "0.0"):
            sent["temperature"] = _number(form["temperature"], "temperature")
        steps = self.endpoint.scheduler.runner.steps
        with_words = steps.pipe.type in CTC or (kind == "verbose_json" and "word" in granularities)
        if kind in TIMED:
            sent["return_timestamps"] = "word" if with_words else True
        if kind == "verbose_json" and not language and steps.pipe.type == "seq2seq_whisper":
            sent["return_language"] = True
        data = await file.read()
        call = await self.endpoint.parse("audio/*", data)
        (result,) = await self.endpoint.results(call.rows, self.endpoint.parameters(sent))
        duration_s = await asyncio.to_thread(num_seconds, data) if kind in TIMED else None
        content, media_type = transcript(result, kind, duration_s or 0.0, language, with_words, granularities)
        return Response(content, media_type=media_type)

    async def speech(self, request: Request, body: bytes) -> Response:
        with told_as(AS_INPUT):
            call, sent = await self.endpoint.parse_object(body, _spoken)
        kind = sent.pop("response_format", None) or "mp3"
        if not isinstance(kind, str) or kind not in SPEECH_TYPES:
            raise Refused(400, f"response_format: expected one of {', '.join(SPEECH_TYPES)}.")
        if sent.pop("speed", None) not in (None, 1, 1.0):
            raise Refused(400, "speed: expected 1.")
        if sent.pop("stream_format", None) not in (None, "audio"):
            raise Refused(400, "stream_format: expected audio.")
        refuse_unknown(sent, {"instructions"})
        with told_as(AS_INPUT):
            (result,) = await self.endpoint.results(call.rows, self.endpoint.parameters(call.parameters))

        def encoded() -> Payload:
            return Payload(encode_recording(result, kind), SPEECH_TYPES[kind])

        return response(await encode(encoded, result, self.endpoint.limits, is_drawn=True))


def _texts(sent: dict[str, Any]) -> list[str]:
    inputs = sent.pop("input", None)
    texts = [inputs] if isinstance(inputs, str) else inputs
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise Refused(400, "input: expected a string, or a list of strings.")
    return texts


def _spoken(sent: dict[str, Any]) -> dict[str, Any]:
    """The text, and the speaker whose number is the voice; a model has no voices of other names."""
    text, voice = sent.pop("input", None), sent.pop("voice", None)
    if not isinstance(text, str):
        raise Refused(400, "input: expected a string.")
    is_number = isinstance(voice, str) and voice.isascii() and voice.isdecimal() and len(voice) < 7
    return {"text": text, **({"speaker_id": int(voice)} if is_number else {})}


def _shortened(vector: Any, size: int | None) -> Any:
    """The first values of a vector, scaled to length 1 again."""
    import numpy as np

    if size is None:
        return vector
    part = first_values(vector, size)
    return part / max(float(np.linalg.norm(part)), 1e-12)


def _encoded(vector: Any, encoding: str) -> Any:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if encoding == "base64" else vector.tolist()


def _number(value: Any, name: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise Refused(400, f"{name}: expected a number.") from None
