"""What a chat asks for that an endpoint does not do, without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

import ray_pipelines as rp
from ray_pipelines.serve.config import Serving
from ray_pipelines.serve.endpoint import Endpoint
from ray_pipelines.serve.http import build_app
from ray_pipelines.serve.security import Guard

Ask = Callable[..., httpx2.Response]


@pytest.fixture(scope="module")
def ask(model: Callable[[str], str]) -> Iterator[Ask]:
    """Sends a chat of one message, with what else is named."""
    runner = rp.pipeline("text-generation", model("llama-chat"), device="cpu")._runner()
    endpoint = Endpoint(Serving(task="text-generation"), runner, "model")
    app = build_app(endpoint, Guard())

    def asked(path: str = "/v1/chat/completions", **fields: Any) -> httpx2.Response:
        async def main() -> httpx2.Response:
            async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://here") as client:
                return await client.post(path, json={"max_tokens": 2, **fields})

        return asyncio.run(main())

    yield asked
    endpoint.close()


HELLO = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"messages": []}, "messages: expected a list of messages {role, content}; got none."),
        ({"n": 0}, "n: expected a whole number from 1 to 8."),
        ({"n": []}, "n: expected a whole number from 1 to 8."),
        ({"n": 2, "stream": True}, "n: expected 1, since a stream has one choice."),
        ({"stream": "true"}, "stream: expected true or false."),
        ({"stream_options": "x"}, "stream_options: expected an object."),
        ({"stop": [""]}, "stop: expected a string, or a list of strings that are not empty."),
        ({"stop": ["a"] * 5}, "stop: expected at most 4 texts of at most 40 characters."),
        ({"max_tokens": -1}, "max_tokens: expected greater than 0; got -1."),
        ({"max_completion_tokens": 10**9}, "max_completion_tokens: expected at most 2,048; got more."),
        ({"top_p": 2}, "top_p: expected less than or equal to 1; got 2."),
        ({"tools": "x"}, "tools: expected a list; got 'x'."),
        ({"seed": 2**63}, "seed: expected a whole number from 0 to 9,223,372,036,854,775,807."),
        ({"tool_choice": "required"}, "tool_choice: is not offered here. Leave it out."),
        ({"modalities": ["text", "audio"]}, "modalities: is not offered here. Leave it out."),
        ({"response_format": {"type": "json_object"}}, "response_format: is not offered here. Leave it out."),
    ],
)
def test_what_is_wrong_is_told_by_the_name_that_was_sent(ask: Ask, fields: dict[str, Any], reason: str) -> None:
    answer = ask(**{"messages": HELLO, **fields})
    assert (answer.status_code in (400, 422), answer.json()["error"]["message"]) == (True, reason)


def test_a_text_is_not_completed_in_its_middle(ask: Ask) -> None:
    answer = ask("/v1/completions", prompt="Hello", suffix="world")
    assert answer.json()["error"]["message"] == "suffix: is not offered here. Leave it out."


@pytest.mark.parametrize("times", [1000, 100_000])
@pytest.mark.parametrize("stream", [True, False])
def test_a_prompt_that_is_too_long_is_not_told_of_parameters_that_completions_lack(
    ask: Ask, times: int, stream: bool
) -> None:
    answer = ask("/v1/completions", prompt="word " * times, stream=stream)
    reason = answer.json()["error"]["message"]
    assert answer.status_code == 413
    assert reason.startswith("prompt: expected at most ") and reason.endswith(" Shorten the text.")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([{"type": "text"}], "messages.content.text: expected a string; got null."),
        (None, "messages[0].content: expected a text; got null."),
        (
            "word " * 1000,
            "messages: expected at most 512 tokens; got 2,017. Shorten the messages, or leave old ones out.",
        ),
        (
            [{"type": "image_url", "image_url": "AAAA"}],
            "messages: expected parts of type text, as this model takes no others; got image.",
        ),
    ],
)
def test_what_is_wrong_with_messages_is_told_by_their_name(ask: Ask, content: Any, reason: str) -> None:
    answer = ask(messages=[{"role": "user", "content": content}])
    assert answer.json()["error"]["message"] == reason


def test_what_asks_for_nothing_is_accepted(ask: Ask) -> None:
    nothing = {"n": None, "tool_choice": "auto", "modalities": ["text"], "suffix": None, "stream_options": None}
    assert ask(messages=HELLO, **nothing).status_code == 200
