"""One endpoint for many callers, without HTTP."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import ray_pipelines as rp
from ray_pipelines.serve.config import ServeConfig, Serving
from ray_pipelines.serve.endpoint import MAX_CHARS_A_TOKEN, Endpoint
from ray_pipelines.serve.parameters import RequestParameters
from ray_pipelines.serve.refusals import Refused
from ray_pipelines.serve.streaming import Ended, generate


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


EndpointOf = Callable[..., Endpoint]


@pytest.fixture
def endpoint_of(model: Callable[[str], str]) -> Iterator[EndpointOf]:
    """Makes endpoints of a task, a tiny model's name and parameters, whose threads end with the test."""
    with ExitStack() as stack:

        def made(task: str, name: str, **parameters: Any) -> Endpoint:
            runner = rp.pipeline(task, model(name), device="cpu", **parameters)._runner()
            endpoint = Endpoint(Serving(task=task), runner, "model")
            stack.callback(endpoint.close)
            return endpoint

        yield made


def tokenizer_of(endpoint: Endpoint) -> Any:
    return endpoint.scheduler.runner.steps.pipe.tokenizer


def test_chunks_may_not_overlap_by_nearly_all_of_them(endpoint_of: EndpointOf) -> None:
    endpoint = endpoint_of("token-classification", "bert-ner")
    half = tokenizer_of(endpoint).model_max_length // 2
    asked = {"aggregation_strategy": "simple", "stride": half}
    assert endpoint.parameters(asked).task == asked
    with pytest.raises(Refused, match=f"at most half of the {half * 2} tokens"):
        endpoint.parameters({**asked, "stride": half + 1})


async def prepared(endpoint: Endpoint, text: Any, parameters: dict[str, Any]) -> Any:
    asked = endpoint.parameters(parameters)
    return endpoint.prepare(endpoint.runner(asked), {"text": text}, asked.truncate_tokens)


def lengths_of_texts(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> list[int]:
    """The characters of each text that is made into tokens from now on."""
    lengths: list[int] = []
    real = type(tokenizer)._encode_plus

    def noted(self: Any, text: Any, *arguments: Any, **options: Any) -> Any:
        lengths.extend(map(len, [text] if isinstance(text, str) else text))
        return real(self, text, *arguments, **options)

    monkeypatch.setattr(type(tokenizer), "_encode_plus", noted)
    return lengths


def test_a_text_that_the_model_cannot_take_is_refused_before_it_is_made_into_tokens(
    endpoint_of: EndpointOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = endpoint_of("text-classification", "bert-classifier")
    tokenizer = tokenizer_of(endpoint)
    most = tokenizer.model_max_length * MAX_CHARS_A_TOKEN
    lengths = lengths_of_texts(monkeypatch, tokenizer)
    refused = asyncio.run(prepared(endpoint, "word " * 100_000, {}))
    assert (refused.type, lengths) == ("RowTooLarge", [])
    assert f"{most:,} characters" in refused.message and "set truncation" in refused.message
    (cut,) = asyncio.run(prepared(endpoint, "word " * 100_000, {"truncation": True}))
    (whole,) = asyncio.run(prepared(endpoint, "word " * 100, {"truncation": True}))
    assert cut["input_ids"].equal(whole["input_ids"])
    assert lengths == [most, 500]


def test_the_end_of_a_long_prompt_is_kept(endpoint_of: EndpointOf) -> None:
    endpoint = endpoint_of("text-generation", "llama-chat", max_new_tokens=4)
    ids = tokenizer_of(endpoint)("a lazy dog")["input_ids"]
    long = "word " * 100_000 + "and a lazy dog"
    (truncated,) = asyncio.run(prepared(endpoint, long, {"truncate": 5}))
    (hole,) = asyncio.run(prepared(endpoint, long, {"handle_long_generation": "hole", "max_new_tokens": 4}))
    assert truncated["input_ids"][0, 1 - len(ids) :].tolist() == ids[1:]
    assert hole["input_ids"][0, 1 - len(ids) :].tolist() == ids[1:]


@pytest.mark.parametrize("prompt", ["word " * 100_000, [{"role": "user", "content": "word " * 100_000}]])
@pytest.mark.parametrize("parameters", [{}, {"truncate": 1 << 30}])
def test_no_prompt_that_is_too_long_is_made_into_tokens_whatever_it_is_to_be_cut_to(
    endpoint_of: EndpointOf, monkeypatch: pytest.MonkeyPatch, prompt: Any, parameters: dict[str, Any]
) -> None:
    endpoint = endpoint_of("text-generation", "llama-chat")
    lengths = lengths_of_texts(monkeypatch, tokenizer_of(endpoint))
    refused = asyncio.run(prepared(endpoint, prompt, parameters))
    assert (refused.type, lengths) == ("RowTooLarge", [])


def test_a_chat_that_is_too_long_is_not_told_of_parameters_that_chats_lack(endpoint_of: EndpointOf) -> None:
    endpoint = endpoint_of("text-generation", "llama-chat", max_new_tokens=4)
    for times, parameters in ((2000, {}), (100_000, {}), (100_000, {"truncate": 5}), (100_000, {"truncation": True})):
        chat = [{"role": "user", "content": "word " * times}]
        refused = asyncio.run(prepared(endpoint, chat, parameters))
        assert refused.type == "RowTooLarge"
        assert "Shorten the messages" in refused.message and "truncat" not in refused.message


def test_the_tokens_of_embedded_texts_are_those_that_the_model_was_given(
    endpoint_of: EndpointOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = endpoint_of("feature-extraction", "bert-features")
    tokenizer = tokenizer_of(endpoint)
    lengths = lengths_of_texts(monkeypatch, tokenizer)
    vectors, num_tokens = asyncio.run(endpoint.embed(["word " * 100_000] * 3 + ["dog"], {}))
    assert len(vectors) == 4
    assert sorted(lengths) == [3] + [tokenizer.model_max_length * MAX_CHARS_A_TOKEN] * 3
    assert num_tokens == 3 * tokenizer.model_max_length + len(tokenizer("dog")["input_ids"])


def test_a_text_that_was_generated_in_time_is_not_late_for_those_who_read_it_slowly(endpoint_of: EndpointOf) -> None:
    endpoint = endpoint_of("text-generation", "llama-chat")

    async def read(pause_s: float) -> list[Any]:
        tokens = []
        async for token in generate(endpoint, {"text": "Hello"}, endpoint.parameters({"max_new_tokens": 3})):
            tokens.append(token)
            await asyncio.sleep(pause_s)
        return tokens

    asyncio.run(read(0))
    endpoint.serving = Serving(task="text-generation", serve=ServeConfig(timeout_s=1))
    *_, last = asyncio.run(read(0.6))
    assert isinstance(last, Ended) and last.num_tokens == 3


def test_a_generation_without_room_is_refused_before_its_prompt_is_made_into_tokens(
    endpoint_of: EndpointOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = endpoint_of("text-generation", "llama-chat")
    lengths = lengths_of_texts(monkeypatch, tokenizer_of(endpoint))
    endpoint.scheduler.num_waiting = ServeConfig().max_queue_requests

    async def read() -> list[Any]:
        return [token async for token in generate(endpoint, {"text": "Hello"}, endpoint.parameters({}))]

    with pytest.raises(Refused) as refused:
        asyncio.run(read())
    assert (refused.value.status, lengths) == (429, [])
