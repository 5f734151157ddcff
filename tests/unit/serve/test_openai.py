"""What OpenAI's clients are told of what they sent, without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

import ray_pipelines as rp
from ray_pipelines.serve.config import Serving
from ray_pipelines.serve.endpoint import Endpoint
from ray_pipelines.serve.http import build_app
from ray_pipelines.serve.security import Guard


@pytest.mark.parametrize(
    ("task", "name", "path", "sent", "reason"),
    [
        ("text-to-audio", "vits", "audio/speech", "a " * 9000, "at most 8,192 tokens; got 35,999. Shorten the text."),
        ("text-to-audio", "vits", "audio/speech", "a" * 1_000_001, "at most 1,000,000 characters; got more."),
        ("feature-extraction", "bert-features", "embeddings", ["a"] * 1000, "1 to 128 inputs; got 1,000."),
    ],
)
def test_what_is_wrong_with_the_input_is_told_by_its_name(
    model: Callable[[str], str], task: str, name: str, path: str, sent: Any, reason: str
) -> None:
    answer = post(model(name), task, f"/v1/{path}", {"input": sent})
    assert answer.json()["error"]["message"] == f"input: expected {reason}"


@pytest.mark.parametrize("path", ["/v1/embeddings", "/"])
def test_more_dimensions_than_there_are_are_refused(model: Callable[[str], str], path: str) -> None:
    sent = {"input": "a"} if path != "/" else {"inputs": ["a"]}
    answer = post(model("bert-features"), "feature-extraction", path, {**sent, "dimensions": 33})
    assert answer.status_code == 422
    assert "dimensions: expected at most the 32 that the model's vectors have." in answer.text
    assert post(model("bert-features"), "feature-extraction", path, {**sent, "dimensions": 32}).status_code == 200


def test_errors_of_a_chat_name_what_was_sent(model: Callable[[str], str]) -> None:
    chat = [{"role": "user", "content": None}]
    for path, name in (("/", "inputs"), ("/v1/chat/completions", "messages")):
        answer = post(model("llama-chat"), "text-generation", path, {name: chat})
        assert answer.status_code == 422 and f"{name}[0].content: " in answer.text, answer.text


def post(folder: str, task: str, path: str, body: Any) -> httpx2.Response:
    """The answer of an endpoint without Ray."""
    endpoint = Endpoint(Serving(task=task), rp.pipeline(task, folder, device="cpu")._runner(), "model")
    transport = httpx2.ASGITransport(build_app(endpoint, Guard()))

    async def main() -> httpx2.Response:
        async with httpx2.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.post(path, json=body)

    try:
        return asyncio.run(main())
    finally:
        endpoint.close()
