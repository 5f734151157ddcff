"""OpenAI's chats and completions: `/v1/chat/completions` and `/v1/completions`, whole or as a stream.

Arguments without a meaning here are refused if they ask for something, and accepted at their defaults.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ray_pipelines.serve.events import event_stream
from ray_pipelines.serve.parameters import RequestParameters
from ray_pipelines.serve.refusals import Refused, input_named, told_as
from ray_pipelines.serve.streaming import Ended, StopTexts, Token, generate

if TYPE_CHECKING:
    from ray_pipelines.serve.endpoint import Endpoint

__all__ = ["Chats", "refuse_unknown"]

IGNORED = {"model", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
           "parallel_tool_calls", "reasoning_effort", "verbosity"}  # fmt: skip
ONLY_DEFAULTS: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "best_of": (None, 1),
    "echo": (None, False),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "suffix": (None, ""),
    "tool_choice": (None, "auto", "none"),
    "functions": (None, []),
    "function_call": (None,),
    "prediction": (None,),
    "audio": (None,),
    "web_search_options": (None,),
}
LENGTHS = ("max_completion_tokens", "max_tokens")
FINISH_REASONS = {"eos_token": "stop", "stop_sequence": "stop", "length": "length"}


class Chats:
    """The handlers.

    Args:
        endpoint: Of a task that generates texts.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    async def chat(self, request: Request, body: bytes) -> Response:
        with told_as(input_named("messages")):
            call, sent = await self.endpoint.parse_object(body, _messages)
            if call.is_list or isinstance(call.rows[0].get("text"), str) or not call.rows[0]:
                raise Refused(400, "messages: expected a list of messages {role, content}.")
            return await self._generated(sent, call.rows[0], is_chat=True)

    async def completions(self, request: Request, body: bytes) -> Response:
        with told_as(input_named("prompt")):
            call, sent = await self.endpoint.parse_object(body, _prompt)
            return await self._generated(sent, call.rows[0], is_chat=False)

    async def _generated(self, sent: dict[str, Any], fields: Mapping[str, Any], *, is_chat: bool) -> Response:
        stream, options = sent.pop("stream", None), sent.pop("stream_options", None) or {}
        if not isinstance(stream, bool | None):
            raise Refused(400, "stream: expected true or false.")
        if not isinstance(options, dict):
            raise Refused(400, "stream_options: expected an object.")
        stops = sent.get("stop") or []
        stops = [stops] if isinstance(stops, str) else stops
        if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
            raise Refused(400, "stop: expected a string, or a list of strings that are not empty.")
        count, most = sent.pop("n", None), self.endpoint.limits.max_sequences
        count = 1 if count is None else count
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= most:
            raise Refused(400, f"n: expected a whole number from 1 to {most}.")
        if stream and count > 1:
            raise Refused(400, "n: expected 1, since a stream has one choice.")
        parameters = self._parameters(sent)
        answer = _Answer(self.endpoint.model_id, is_chat)
        if stream:
            events = self._events(answer, fields, parameters, stops, bool(options.get("include_usage")))
            return await event_stream(events, "openai")
        choices, prompt_tokens, new_tokens = [], 0, 0
        for index in range(count):
            text, ended = await self._text(fields, _for_choice(parameters, index), stops)
            choices.append((index, text, ended.finish_reason))
            prompt_tokens, new_tokens = ended.num_prompt_tokens, new_tokens + ended.num_tokens
        return JSONResponse(answer.whole(choices, prompt_tokens, new_tokens))

    def _parameters(self, sent: Mapping[str, Any]) -> RequestParameters:
        length = next((name for name in LENGTHS if sent.get(name) is not None), "max_tokens")
        with told_as({"parameters.max_new_tokens": length, "parameters.stop_sequence": "stop", "parameters.": ""}):
            return self.endpoint.parameters(_generation_parameters(sent))

    async def _text(
        self, fields: Mapping[str, Any], parameters: RequestParameters, stops: list[str]
    ) -> tuple[str, Ended]:
        cut, pieces = StopTexts(stops), []
        ended: Ended | None = None
        async with aclosing(generate(self.endpoint, fields, parameters)) as tokens:
            async for token in tokens:
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
    ) -> AsyncGenerator[dict[str, Any], None]:
        cut, is_first = StopTexts(stops), True
        async with aclosing(generate(self.endpoint, fields, parameters)) as tokens:
            async for token in tokens:
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


def _messages(sent: dict[str, Any]) -> Any:
    messages = sent.pop("messages", None)
    if messages == []:
        raise Refused(400, "messages: expected a list of messages {role, content}; got none.")
    return messages


def _prompt(sent: dict[str, Any]) -> str:
    prompt = sent.pop("prompt", None)
    if isinstance(prompt, list) and len(prompt) == 1:
        (prompt,) = prompt
    if not isinstance(prompt, str):
        raise Refused(400, "prompt: expected one string.")
    return prompt


def _generation_parameters(sent: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of text-generation from those of OpenAI."""
    parameters: dict[str, Any] = {}
    lengths = [sent.get(name) for name in LENGTHS if sent.get(name) is not None]
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
    refuse_unknown(sent, {*LENGTHS, "temperature", "top_p", "seed", "stop", "tools"})
    return parameters


def refuse_unknown(sent: Mapping[str, Any], known: set[str]) -> None:
    """Refuses what is not known, and what asks for something that is not offered."""
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
