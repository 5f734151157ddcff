"""OpenAI's API for the tasks that have a natural form in it.

    text-generation, image-text-to-text   /v1/chat/completions, /v1/completions (both also as a stream)
    feature-extraction                    /v1/embeddings
    automatic-speech-recognition          /v1/audio/transcriptions
    text-to-audio                         /v1/audio/speech
    all                                   /v1/models, /v1/models/{id}

Arguments without a meaning here are refused if they ask for something, and accepted at their defaults.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from ray_pipelines.serve.endpoint import Endpoint
from ray_pipelines.serve.parameters import RequestParameters
from ray_pipelines.serve.refusals import Refused
from ray_pipelines.serve.replies import encode_recording
from ray_pipelines.serve.requests import parse_body, parse_call
from ray_pipelines.serve.streaming import Ended, StopTexts, Token, generate
from ray_pipelines.serve.transcripts import transcript

__all__ = ["openai_routes"]

Handler = Callable[[Request, bytes], Awaitable[Response]]

IGNORED = {"model", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
           "parallel_tool_calls", "tool_choice", "reasoning_effort", "verbosity", "modalities", "suffix"}  # fmt: skip
ONLY_DEFAULTS: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "best_of": (None, 1),
    "echo": (None, False),
    "response_format": (None, {"type": "text"}),
    "functions": (None, []),
    "function_call": (None,),
    "prediction": (None,),
    "audio": (None,),
    "web_search_options": (None,),
}
FINISH_REASONS = {"eos_token": "stop", "stop_sequence": "stop", "length": "length"}
SPEECH_TYPES = {"wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg", "opus": "audio/ogg", "pcm": "audio/pcm"}


def openai_routes(endpoint: Endpoint) -> list[tuple[str, Handler, str]]:
    """Path, handler and method of each route that the endpoint's task has."""
    api = _Api(endpoint)
    routes: list[tuple[str, Handler, str]] = [
        ("/v1/models", api.models, "GET"),
        ("/v1/models/{model:path}", api.model, "GET"),
    ]
    by_task: dict[str, list[tuple[str, Handler, str]]] = {
        "text-generation": [
            ("/v1/chat/completions", api.chat, "POST"),
            ("/v1/completions", api.completions, "POST"),
        ],
        "image-text-to-text": [("/v1/chat/completions", api.chat, "POST")],
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

    # --- texts

    async def chat(self, request: Request, body: bytes) -> Response:
        sent = dict(_mapping(body))
        call = parse_call(self.endpoint.task, {"inputs": sent.pop("messages", None)}, self.endpoint.limits)
        if call.is_list or isinstance(call.rows[0].get("text"), str) or not call.rows[0]:
            raise Refused(400, "messages: expected a list of messages {role, content}.")
        return await self._generated(sent, call.rows[0], is_chat=True)

    async def completions(self, request: Request, body: bytes) -> Response:
        sent = dict(_mapping(body))
        prompt = sent.pop("prompt", None)
        if isinstance(prompt, list) and len(prompt) == 1:
            (prompt,) = prompt
        if not isinstance(prompt, str):
            raise Refused(400, "prompt: expected one string.")
        call = parse_call(self.endpoint.task, {"inputs": prompt}, self.endpoint.limits)
        return await self._generated(sent, call.rows[0], is_chat=False)

    async def _generated(self, sent: dict[str, Any], fields: Mapping[str, Any], *, is_chat: bool) -> Response:
        stream, options = sent.pop("stream", None), sent.pop("stream_options", None) or {}
        stops = sent.get("stop") or []
        stops = [stops] if isinstance(stops, str) else stops
        if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
            raise Refused(400, "stop: expected a string, or a list of them.")
        count = sent.pop("n", None)
        if count not in (None, 1) and stream:
            raise Refused(400, "n: expected 1 with stream.")
        parameters = self.endpoint.parameters(_generation_parameters(sent))
        answer = _Answer(self.endpoint.model_id, is_chat)
        if stream:
            events = self._events(answer, fields, parameters, stops, bool(options.get("include_usage")))
            return await _stream(events)
        if not isinstance(count or 1, int) or not 1 <= (count or 1) <= self.endpoint.limits.max_sequences:
            raise Refused(400, f"n: expected 1 to {self.endpoint.limits.max_sequences}.")
        choices, prompt_tokens, new_tokens = [], 0, 0
        for index in range(count or 1):
            text, ended = await self._text(fields, _for_choice(parameters, index), stops)
            choices.append((index, text, ended.finish_reason))
            prompt_tokens, new_tokens = ended.num_prompt_tokens, new_tokens + ended.num_tokens
        return JSONResponse(answer.whole(choices, prompt_tokens, new_tokens))

    async def _text(
        self, fields: Mapping[str, Any], parameters: RequestParameters, stops: list[str]
    ) -> tuple[str, Ended]:
        cut, pieces = StopTexts(stops), []
        ended: Ended | None = None
        async for token in generate(self.endpoint, fields, parameters):
            if isinstance(token, Token):
                pieces.append(cut.add(token.text))
            else:
                ended = token
                pieces.append(cut.add(token.rest))
        assert ended is not None
        return "".join([*pieces, cut.rest()]), ended

    async def _events(
        self,
        answer: _Answer,
        fields: Mapping[str, Any],
        parameters: RequestParameters,
        stops: list[str],
        with_usage: bool,
    ) -> AsyncIterator[dict[str, Any]]:
        cut, is_first = StopTexts(stops), True
        async for token in generate(self.endpoint, fields, parameters):
            if isinstance(token, Token):
                text = cut.add(token.text)
                if text or is_first:
                    yield answer.piece(text, is_first=is_first)
                    is_first = False
                continue
            if rest := cut.add(token.rest) + cut.rest():
                yield answer.piece(rest)
            yield answer.piece(None, finish_reason=FINISH_REASONS[token.finish_reason])
            if with_usage:
                yield answer.usage(token.num_prompt_tokens, token.num_tokens)

    # --- vectors

    async def embeddings(self, request: Request, body: bytes) -> Response:
        sent = dict(_mapping(body))
        inputs, encoding = sent.pop("input", None), sent.pop("encoding_format", None) or "float"
        size = sent.pop("dimensions", None)
        texts = [inputs] if isinstance(inputs, str) else inputs
        most = self.endpoint.limits.max_inputs
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise Refused(400, "input: expected a string, or a list of strings.")
        if len(texts) > most:
            raise Refused(400, f"input: expected at most {most:,} strings; got {len(texts):,}.")
        if encoding not in ("float", "base64"):
            raise Refused(400, "encoding_format: expected float or base64.")
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise Refused(400, "dimensions: expected a whole number from 1 on.")
        _refuse_unknown(sent, set())
        rows = [parse_call(self.endpoint.task, {"inputs": text}, self.endpoint.limits).rows[0] for text in texts]
        vectors = await self.endpoint.embed([row["text"] for row in rows], {"normalize": True})
        vectors = [_shortened(vector, size) for vector in vectors]
        data = [
            {"object": "embedding", "index": index, "embedding": _encoded(vector, encoding)}
            for index, vector in enumerate(vectors)
        ]
        tokens = await self.endpoint.count_tokens([row["text"] for row in rows])
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "data": data, "model": self.endpoint.model_id, "usage": usage})

    # --- speech

    async def transcriptions(self, request: Request, body: bytes) -> Response:
        form = await _form(request, body)
        file = form.get("file")
        if file is None or isinstance(file, str):
            raise Refused(400, "file: expected a recording.")
        kind = str(form.get("response_format") or "json")
        granularities = [str(value) for value in form.getlist("timestamp_granularities[]")]
        sent: dict[str, Any] = {}
        if form.get("language"):
            sent["generate_kwargs"] = {"language": str(form["language"])}
        if form.get("temperature") not in (None, "", "0", "0.0"):
            sent["temperature"] = _number(form["temperature"], "temperature")
        if kind in ("verbose_json", "srt", "vtt"):
            sent["return_timestamps"] = "word" if "word" in granularities else True
        data = await file.read()
        row = parse_call(self.endpoint.task, parse_body(self.endpoint.task, "audio/*", data), self.endpoint.limits)
        (result,) = await self.endpoint.results(row.rows, self.endpoint.parameters(sent))
        content, media_type = transcript(result, kind)
        return Response(content, media_type=media_type)

    async def speech(self, request: Request, body: bytes) -> Response:
        sent = dict(_mapping(body))
        kind = str(sent.pop("response_format", None) or "mp3")
        if kind not in SPEECH_TYPES:
            raise Refused(400, f"response_format: expected one of {', '.join(SPEECH_TYPES)}.")
        if sent.pop("speed", None) not in (None, 1, 1.0):
            raise Refused(400, "speed: expected 1.")
        voice = str(sent.pop("voice", None) or "")
        fields: dict[str, Any] = {"inputs": sent.pop("input", None)}
        _refuse_unknown(sent, {"instructions", "stream_format"})
        if voice.isdigit():
            fields["parameters"] = {"speaker_id": int(voice)}
        call = parse_call(self.endpoint.task, fields, self.endpoint.limits)
        (result,) = await self.endpoint.results(call.rows, self.endpoint.parameters(call.parameters))
        return Response(encode_recording(result, kind), media_type=SPEECH_TYPES[kind])


class _Answer:
    """The objects of a generation: whole, or piece by piece."""

    def __init__(self, model_id: str, is_chat: bool) -> None:
        self.is_chat = is_chat
        self._head = {
            "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model_id,
        }

    def whole(self, choices: Sequence[tuple[int, str, str]], prompt_tokens: int, new_tokens: int) -> dict[str, Any]:
        return {
            **self._head,
            "object": "chat.completion" if self.is_chat else "text_completion",
            "choices": [
                {
                    "index": index,
                    **({"message": {"role": "assistant", "content": text}} if self.is_chat else {"text": text}),
                    "finish_reason": FINISH_REASONS[reason],
                    "logprobs": None,
                }
                for index, text, reason in choices
            ],
            "usage": _usage(prompt_tokens, new_tokens),
        }

    def piece(self, text: str | None, *, is_first: bool = False, finish_reason: str | None = None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish_reason, "logprobs": None}
        if self.is_chat:
            role = {"role": "assistant"} if is_first else {}
            choice["delta"] = role if text is None else {**role, "content": text}
        else:
            choice["text"] = text or ""
        return {**self._head, "object": self._piece_name(), "choices": [choice]}

    def usage(self, prompt_tokens: int, new_tokens: int) -> dict[str, Any]:
        return {
            **self._head,
            "object": self._piece_name(),
            "choices": [],
            "usage": _usage(prompt_tokens, new_tokens),
        }

    def _piece_name(self) -> str:
        return "chat.completion.chunk" if self.is_chat else "text_completion"


def _usage(prompt_tokens: int, new_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": new_tokens,
        "total_tokens": prompt_tokens + new_tokens,
    }


def _mapping(body: bytes) -> Mapping[str, Any]:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "The body is not valid JSON.") from None
    if not isinstance(values, dict):
        raise Refused(400, "expected a JSON object.")
    return values


def _generation_parameters(sent: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of text-generation from those of OpenAI."""
    parameters: dict[str, Any] = {}
    lengths = [sent.get(name) for name in ("max_completion_tokens", "max_tokens") if sent.get(name) is not None]
    if lengths:
        parameters["max_new_tokens"] = lengths[0]
    temperature = sent.get("temperature")
    if temperature is not None:
        if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 <= temperature <= 2:
            raise Refused(400, "temperature: expected a number from 0 to 2.")
        parameters |= {"do_sample": True, "temperature": float(temperature)} if temperature else {"do_sample": False}
    for name in ("top_p", "seed", "stop", "tools"):
        if sent.get(name) is not None:
            parameters[name] = sent[name]
    _refuse_unknown(sent, {"max_completion_tokens", "max_tokens", "temperature", "top_p", "seed", "stop", "tools", "n"})
    return parameters


def _refuse_unknown(sent: Mapping[str, Any], known: set[str]) -> None:
    for name, value in sent.items():
        if name in known or name in IGNORED:
            continue
        if name not in ONLY_DEFAULTS:
            raise Refused(400, f"{name[:40]}: is not known.")
        if value not in ONLY_DEFAULTS[name]:
            raise Refused(400, f"{name}: is not offered here. Leave it out.")


def _for_choice(parameters: RequestParameters, index: int) -> RequestParameters:
    """Each of several choices has a seed of its own."""
    if not index:
        return parameters
    return RequestParameters(parameters.task, (parameters.seed or 0) + index, parameters.truncate_tokens)


async def _stream(events: AsyncIterator[dict[str, Any]]) -> Response:
    first = await anext(events, None)

    async def lines() -> AsyncIterator[bytes]:
        try:
            if first is not None:
                yield _line(first)
            async for event in events:
                yield _line(event)
        except Refused as refused:
            yield _line(refused.as_dict("openai"))
        finally:
            await events.aclose()  # type: ignore[attr-defined]
        yield b"data: [DONE]\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"cache-control": "no-cache"})


def _line(event: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def _shortened(vector: Any, size: int | None) -> Any:
    """The first values of a vector, scaled to length 1 again."""
    import numpy as np

    if size is None or size >= len(vector):
        return vector
    part = vector[:size]
    return part / max(float(np.linalg.norm(part)), 1e-12)


def _encoded(vector: Any, encoding: str) -> Any:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if encoding == "base64" else vector.tolist()


def _number(value: Any, name: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise Refused(400, f"{name}: expected a number.") from None


async def _form(request: Request, body: bytes) -> Any:
    """The parts of a multipart body that was read already."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Refused(400, "expected multipart/form-data with a file.")

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        return await Request(request.scope, receive).form(max_files=1, max_fields=50)
    except (ValueError, KeyError, RuntimeError):
        raise Refused(400, "The form cannot be read.") from None
