"""Tokens as server-sent events, in the form of text-generation-inference, and what any stream of events needs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from starlette.responses import Response, StreamingResponse

from ray_pipelines.serve.refusals import Refused
from ray_pipelines.serve.replies import json_bytes
from ray_pipelines.serve.streaming import Ended, Token, generate

if TYPE_CHECKING:
    from ray_pipelines.serve.endpoint import Endpoint

__all__ = ["event_stream", "token_events", "with_details"]


async def event_stream(events: AsyncGenerator[Any, None], style: str = "hf") -> Response:
    """The events as they come; what is refused before the first one is an answer of its own.

    Args:
        events: JSON's types; closed with the connection.
        style: Whose form the stream has: Hugging Face's, or `openai`, with `[DONE]` at its end.
    """
    first = await anext(events, None)

    async def lines() -> AsyncGenerator[bytes, None]:
        async with aclosing(events):
            try:
                if first is not None:
                    yield _line(first)
                async for event in events:
                    yield _line(event)
            except Refused as refused:
                yield _line(refused.as_dict(style))
        if style == "openai":
            yield b"data: [DONE]\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"cache-control": "no-cache"})


def _line(event: Any) -> bytes:
    return b"data: " + json_bytes(event) + b"\n\n"


async def token_events(endpoint: Endpoint, call: Any) -> AsyncGenerator[dict[str, Any], None]:
    """The events of text-generation-inference; the last one has the whole text."""
    if len(call.rows) != 1:
        raise Refused(422, "stream: expected one input.")
    parameters = _generating(endpoint, call)
    index, last = 0, None
    async with aclosing(generate(endpoint, call.rows[0], parameters)) as tokens:
        async for token in tokens:
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


async def with_details(endpoint: Endpoint, call: Any) -> list[dict[str, Any]]:
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
