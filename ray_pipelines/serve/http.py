"""The HTTP routes of one endpoint, as an ASGI application: Hugging Face's Inference API, and OpenAI's beside it.

    POST /                                an input, or a list, of the task: JSON or a bare file
    POST /v1/chat/completions, …          OpenAI's API, where the task has a natural form in it (openai.py)
    GET  /health  /info  /openapi.json    whether it lives, what it is, how to call it

Every route but `/health` asks for a key once `RAY_PIPELINES_API_KEYS` holds some. Bodies are counted while they come.
Nothing of inputs, headers or exceptions is logged or answered.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ray_pipelines.serve.endpoint import Endpoint
from ray_pipelines.serve.openai import openai_routes
from ray_pipelines.serve.refusals import Refused
from ray_pipelines.serve.replies import Payload
from ray_pipelines.serve.schema import openapi_document
from ray_pipelines.serve.security import Guard
from ray_pipelines.serve.streaming import Ended, Token, generate

__all__ = ["build_app"]

logger = logging.getLogger(__name__)

Handler = Callable[[Request, bytes], Awaitable[Response]]


def build_app(endpoint: Endpoint, guard: Guard | None = None) -> Any:
    """The ASGI application of `endpoint`.

    Args:
        endpoint: Answers the requests.
        guard: Keys; those of the environment if None.
    """
    guard = guard or Guard.from_environment()
    most = endpoint.limits.max_body_bytes

    async def infer(request: Request, body: bytes) -> Response:
        call = await endpoint.parse(request.headers.get("content-type"), body)
        if call.stream:
            return await _events(_token_events(endpoint, call))
        parameters = endpoint.parameters(call.parameters) if endpoint.task.name == "text-generation" else None
        if parameters is not None and parameters.details:
            return JSONResponse(await _with_details(endpoint, call))
        return _response(await endpoint.answer(call))

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def info(request: Request, body: bytes) -> Response:
        return JSONResponse(endpoint.info())

    async def openapi(request: Request, body: bytes) -> Response:
        return JSONResponse(openapi_document(endpoint))

    routes = [Route("/health", health, methods=["GET"])]
    for path, handler, method, style in (
        ("/", infer, "POST", "hf"),
        ("/v1", infer, "POST", "hf"),
        ("/info", info, "GET", "hf"),
        ("/openapi.json", openapi, "GET", "hf"),
        *((path, handler, method, "openai") for path, handler, method in openai_routes(endpoint)),
    ):
        routes.append(Route(path, _guarded(handler, guard, most, style), methods=[method]))
    app = Starlette(routes=routes, exception_handlers={HTTPException: _not_found})
    app.router.redirect_slashes = False
    return _Front(app)


def _guarded(handler: Handler, guard: Guard, max_body_bytes: int, style: str) -> Any:
    """`handler` behind the check of the key and of the body's size, with refusals as answers."""

    async def answer(request: Request) -> Response:
        guard.check(request.headers.get("authorization"))
        return await handler(request, await _body(request, max_body_bytes))

    async def guarded(request: Request) -> Response:
        task = asyncio.ensure_future(answer(request))
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
        error = task.exception()
        if error is None:
            return task.result()
        if isinstance(error, ClientDisconnect):
            return Response(status_code=499)
        if not isinstance(error, Refused):
            logger.error("A request failed with %s in %s.", type(error).__name__, _place(error))
            error = Refused(500, "The request failed; the operator's log has the kind of error.", "generation")
        return Response(error.body(style), error.status, error.headers())

    return guarded


def _place(error: BaseException) -> str:
    """Where an error was raised, without what it says: its text may hold a client's input."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_name}, line {trace.tb_lineno}" if trace is not None else "an unknown place"


async def _body(request: Request, max_bytes: int) -> bytes:
    """The body, counted while it comes.

    Raises:
        Refused: 413: it is too long.
    """
    too_long = Refused(413, f"The body has more than {max_bytes:,} bytes.")
    length = request.headers.get("content-length")
    if length is not None and length.isdigit() and int(length) > max_bytes:
        raise too_long
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > max_bytes:
            raise too_long
    return bytes(body)


def _response(answer: Any) -> Response:
    if isinstance(answer, Payload):
        return Response(answer.data, media_type=answer.media_type)
    return JSONResponse(answer)


async def _not_found(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    message = "There is no such route." if status == 404 else "This route does not take that method."
    return JSONResponse(Refused(status, message).as_dict(), status)


# --- tokens as events


async def _events(events: AsyncIterator[Any]) -> Response:
    """The events as a stream; what is refused before the first one is an answer of its own."""
    first = await anext(events, None)

    async def lines() -> AsyncIterator[bytes]:
        try:
            if first is not None:
                yield _event(first)
            async for event in events:
                yield _event(event)
        except Refused as refused:
            yield _event(refused.as_dict())
        finally:
            await events.aclose()  # type: ignore[attr-defined]

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"cache-control": "no-cache"})


def _event(values: Any) -> bytes:
    return b"data:" + json.dumps(values).encode() + b"\n\n"


async def _token_events(endpoint: Endpoint, call: Any) -> AsyncIterator[dict[str, Any]]:
    """The events of text-generation-inference; the last one has the whole text."""
    if len(call.rows) != 1:
        raise Refused(422, "stream: expected one input.")
    parameters = _generating(endpoint, call)
    index, last = 0, None
    async for token in generate(endpoint, call.rows[0], parameters):
        if isinstance(token, Token):
            if last is not None:
                yield _token_event(index, last)
                index += 1
            last = token
        elif last is not None:
            details = {
                "finish_reason": token.finish_reason,
                "generated_tokens": token.num_tokens,
                "input_length": token.num_prompt_tokens,
                "seed": parameters.seed,
            }
            last = replace(last, text=last.text + token.rest)
            yield {**_token_event(index, last), "generated_text": token.text, "details": details}


def _token_event(index: int, token: Token) -> dict[str, Any]:
    return {"index": index, "token": _token(token), "generated_text": None, "details": None}


def _token(token: Token) -> dict[str, Any]:
    return {"id": token.id, "text": token.text, "logprob": token.logprob, "special": token.special}


def _generating(endpoint: Endpoint, call: Any) -> Any:
    sent = {name: value for name, value in call.parameters.items() if name != "return_full_text"}
    return endpoint.parameters(sent)


async def _with_details(endpoint: Endpoint, call: Any) -> list[dict[str, Any]]:
    """The texts with their tokens, for `details: true`."""
    answers = []
    parameters = _generating(endpoint, call)
    for row in call.rows:
        tokens: list[Token] = []
        async for token in generate(endpoint, row, parameters):
            if isinstance(token, Ended):
                tokens[-1:] = [replace(last, text=last.text + token.rest) for last in tokens[-1:]]
                details = {
                    "finish_reason": token.finish_reason,
                    "generated_tokens": token.num_tokens,
                    "seed": parameters.seed,
                    "prefill": [],
                    "tokens": [_token(one) for one in tokens],
                }
                text = token.text
                if call.parameters.get("return_full_text") and isinstance(row["text"], str):
                    text = row["text"] + text
                answers.append({"generated_text": text, "details": details})
            else:
                tokens.append(token)
    return answers


class _Front:
    """Names each answer, so that a client can speak of it, and takes paths with and without a slash at their end.

    A client's own name for its request is kept if it is a plain one.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        root, path = scope.get("root_path", ""), scope["path"]
        below = path.removeprefix(root).rstrip("/") if path.startswith(root) else path
        scope = {**scope, "path": f"{root}{below or '/'}"}
        sent = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        name = sent if sent and len(sent) <= 64 and sent.replace("-", "").isalnum() else uuid.uuid4().hex

        async def named(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"x-request-id", name.encode())]}
            await send(message)

        await self.app(scope, receive, named)
