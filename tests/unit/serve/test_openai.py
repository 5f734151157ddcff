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
    endpoint = Endpoint(Serving(task=task), rp.pipeline(task, model(name), device="cpu")._runner(), "model")
    transport = httpx2.ASGITransport(build_app(endpoint, Guard()))

    async def main() -> httpx2.Response:
        async with httpx2.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.post(f"/v1/{path}", json={"input": sent})

    try:
        answer = asyncio.run(main())
    finally:
        endpoint.close()
    assert answer.json()["error"]["message"] == f"input: expected {reason}"
