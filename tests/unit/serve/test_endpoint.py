"""One endpoint for many callers, without HTTP."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

import ray_pipelines as rp
from ray_pipelines.serve.config import Serving
from ray_pipelines.serve.endpoint import Endpoint
from ray_pipelines.serve.parameters import RequestParameters
from ray_pipelines.serve.refusals import Refused


class Noted(Endpoint):
    """Notes which texts it has prepared, in order."""

    prepared: tuple[str, ...] = ()

    def prepare(self, runner: Any, fields: Any, truncate_tokens: int | None = None) -> Any:
        self.prepared += (fields["text"],)
        return super().prepare(runner, fields, truncate_tokens)


def test_a_request_with_many_inputs_lets_others_have_their_turns(model: Callable[[str], str]) -> None:
    runner = rp.pipeline("text-classification", model("bert-classifier"), device="cpu")._runner()
    endpoint = Noted(Serving(task="text-classification"), runner, "model")
    gate = threading.Event()

    async def ask(*texts: str) -> list[Any]:
        return await endpoint.results(tuple({"text": text} for text in texts), RequestParameters({}))

    async def main() -> list[list[Any]]:
        held = asyncio.create_task(endpoint.scheduler.on_cpu(lambda: gate.wait(10)))
        await asyncio.sleep(0)
        asked = [asyncio.create_task(ask(*texts)) for texts in (("a", "b", "c", "d"), ("x",), ("y", "z"))]
        await asyncio.sleep(0.01)
        gate.set()
        await held
        return await asyncio.gather(*asked)

    try:
        results = asyncio.run(main())
    finally:
        endpoint.close()
    assert [len(one) for one in results] == [4, 1, 2]
    assert endpoint.prepared[:4] == ("a", "x", "y", "b")


def test_chunks_may_not_overlap_by_nearly_all_of_them(model: Callable[[str], str]) -> None:
    runner = rp.pipeline("token-classification", model("bert-ner"), device="cpu")._runner()
    half = runner.steps.pipe.tokenizer.model_max_length // 2
    endpoint = Endpoint(Serving(task="token-classification"), runner, "model")
    asked = {"aggregation_strategy": "simple", "stride": half}
    assert endpoint.parameters(asked).task == asked
    with pytest.raises(Refused, match=f"at most half of the {half * 2} tokens"):
        endpoint.parameters({**asked, "stride": half + 1})
    endpoint.close()
