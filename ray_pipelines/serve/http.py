"""The HTTP routes of one endpoint, as an ASGI application: Hugging Face's Inference API, and OpenAI's beside it.

    POST /                                an input, or a list, of the task: JSON or a bare file
    POST /v1/chat/completions, …          OpenAI's API, where the task has a natural form in it (openai.py)
    GET  /health  /info  /openapi.json    whether it lives, what it is, how to call it

Every path but `/health` asks for a key once `RAY_PIPELINES_API_KEYS` holds some, before anything else is said or read.
A client that goes away takes its work with it. Nothing of inputs, headers or exceptions is logged or answered.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ray_pipelines.serve.bodies import Bodies
from ray_pipelines.serve.endpoint import Endpoint
from ray_pipelines.serve.events import event_stream, token_events, with_details
from ray_pipelines.serve.openai import openai_routes
from ray_pipelines.serve.refusals import Refused, late, told_as
from ray_pipelines.serve.replies import encode, response
from ray_pipelines.serve.schema import openapi_document
from ray_pipelines.serve.security import Guard

__all__ = ["build_app"]

logger = logging.getLogger(__name__)

Handler = Callable[[Request, bytes], Awaitable[Response]]
AS_INPUTS = {"text[": "inputs["}
"""How messages name those of a chat, which Hugging Face's clients send as `inputs`."""


def build_app(
    endpoint: Endpoint, guard: Guard | None = None, observe: Callable[[int, float], None] | None = None
) -> Any:
    """The ASGI application of `endpoint`.

    Args:
        endpoint: Answers the requests.
        guard: Keys; those of the environment if None.
        observe: Told the status and the seconds of each answer.
    """
    guard = guard or Guard.from_environment()
    options = endpoint.serving.serve
    bodies = Bodies(options.limits.max_body_bytes, options.max_queue_bytes, options.timeout_s)

    async def infer(request: Request, body: bytes) -> Response:
        with told_as(AS_INPUTS):
            call = await endpoint.parse(request.headers.get("content-type"), body)
            if call.stream:
                return await event_stream(token_events(endpoint, call))
            parameters = endpoint.parameters(call.parameters) if endpoint.task.name == "text-generation" else None
            if parameters is not None and parameters.details:
                answers = await with_details(endpoint, call)
                return response(await encode(lambda: answers, answers, endpoint.limits))
            return response(await endpoint.answer(call, as_picture=_asks_for_picture(request)))

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def info(request: Request, body: bytes) -> Response:
        return JSONResponse(endpoint.info())

    async def openapi(request: Request, body: bytes) -> Response:
        return JSONResponse(openapi_document(endpoint))

    routes = [Route("/health", health, methods=["GET"])]
    for path, handler, method in (
        ("/", infer, "POST"),
        ("/v1", infer, "POST"),
        ("/info", info, "GET"),
        ("/openapi.json", openapi, "GET"),
        *openai_routes(endpoint),
    ):
        routes.append(Route(path, _answering(handler, bodies, options.timeout_s), methods=[method]))
    app = Starlette(routes=routes, exception_handlers={HTTPException: _not_found})
    app.router.redirect_slashes = False
    return _Front(app, guard, observe or _unobserved)


def _answering(handler: Handler, bodies: Bodies, timeout_s: float) -> Any:
    """`handler` with a body that was read within its bounds, and its time for all of an answer, or for its beginning
    where it is a stream; with refusals as answers.
    """

    async def answer(request: Request, begun: asyncio.Event) -> Response:
        async with bodies.body(request) as body:
            begun.set()
            try:
                return await asyncio.wait_for(handler(request, body), timeout_s)
            except TimeoutError:
                raise late(timeout_s) from None

    async def answering(request: Request) -> Response:
        begun = asyncio.Event()
        task = asyncio.ensure_future(answer(request, begun))
        watch = asyncio.ensure_future(_gone(request, begun))
        for one in (task, watch):
            one.add_done_callback(_noted)
        try:
            await asyncio.wait([task, watch], return_when="FIRST_COMPLETED")
            if not task.done():
                return Response(status_code=499)
        finally:
            task.cancel()
            watch.cancel()
        error = task.exception()
        return task.result() if error is None else _refusal(request, error)

    return answering


def _noted(task: asyncio.Future[Any]) -> None:
    """Takes note of how a task has ended: asyncio logs errors, with what they say, that nobody waits for any more."""
    if not task.cancelled():
        task.exception()


async def _gone(request: Request, begun: asyncio.Event) -> None:
    """Returns once the client has closed the connection.

    Serve tells it, too, by cancelling the request, but not to clients whose headers ask it not to.
    """
    await begun.wait()
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _refusal(request: Request, error: BaseException) -> Response:
    if not isinstance(error, Refused):
        logger.error("A request failed with %s in %s.", type(error).__name__, _place(error))
        error = Refused(500, "The request failed; the operator's log has the kind of error.", "generation")
    return Response(error.body(_style(request.scope)), error.status, error.headers())


def _style(scope: Any) -> str:
    """Whose form of errors a path has."""
    below = scope["path"].removeprefix(scope.get("root_path", ""))
    return "openai" if below.startswith("/v1/") else "hf"


def _place(error: BaseException) -> str:
    """Where an error was raised, without what it says: its text may hold a client's input."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_name}, line {trace.tb_lineno}" if trace is not None else "an unknown place"


def _asks_for_picture(request: Request) -> bool:
    """Whether the type that the client names first is that of a picture."""
    first = request.headers.get("accept", "").partition(",")[0].partition(";")[0]
    return first.strip().lower() in ("image/png", "image/*")


async def _not_found(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    own = dict(getattr(error, "headers", None) or {})
    message = "There is no such route." if status == 404 else f"This route takes {own.get('Allow', 'other methods')}."
    refused = Refused(status, message)
    return Response(refused.body(_style(request.scope)), status, refused.headers() | own)


def _unobserved(status: int, elapsed_s: float) -> None:
    pass


class _Front:
    """Checks keys, names each answer, so that a client can speak of it, and takes paths with and without a slash at the
    end. A client's own name for its request is kept if it is a plain one.
    """

    def __init__(self, app: Any, guard: Guard, observe: Callable[[int, float], None]) -> None:
        self.app = app
        self.guard = guard
        self.observe = observe

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        root, path = scope.get("root_path", ""), scope["path"]
        below = path.removeprefix(root).rstrip("/") if path.startswith(root) else path
        scope = {**scope, "path": f"{root}{below or '/'}"}
        headers = dict(scope["headers"])
        sent = headers.get(b"x-request-id", b"").decode("latin-1")
        name = sent if sent.isascii() and len(sent) <= 64 and sent.replace("-", "").isalnum() else uuid.uuid4().hex

        start_s, status = time.monotonic(), 499

        async def named(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", name.encode())]}
            await send(message)

        try:
            if below != "/health":
                self.guard.check(headers.get(b"authorization"))
            await self.app(scope, receive, named)
        except Refused as refused:
            answer = Response(refused.body(_style(scope)), refused.status, refused.headers())
            await answer(scope, receive, named)
        finally:
            if below != "/health":
                self.observe(status, time.monotonic() - start_s)
