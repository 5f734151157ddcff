"""Answers as they are sent."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import numpy as np
import pytest

from ray_pipelines.serve.config import ClientLimits
from ray_pipelines.serve.events import event_stream
from ray_pipelines.serve.refusals import Refused
from ray_pipelines.serve.replies import Payload, encode, is_larger, json_bytes, picture_of_depth, reply

LIMITS = ClientLimits()


def test_numbers_that_json_lacks_are_null_wherever_they_stand() -> None:
    values = [float("nan"), np.float32("inf"), np.array([np.nan, -np.inf, 1], dtype=np.float32)]
    assert json.loads(json_bytes(values)) == [None, None, [None, None, 1]]


def test_events_lack_them_too() -> None:
    async def events() -> Any:
        yield {"logprob": float("nan")}

    async def sent() -> list[Any]:
        response: Any = await event_stream(events())
        return [part async for part in response.body_iterator]

    assert asyncio.run(sent()) == [b'data: {"logprob":null}\n\n']


def test_values_of_all_kinds_are_json() -> None:
    value = {
        "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "scalars": (np.float16(0.5), np.int64(2), np.bool_(True), np.array(3)),
        "bytes": b"abc",
        1: None,
    }
    assert json.loads(json_bytes(value)) == {
        "transposed": [[0, 3], [1, 4], [2, 5]],
        "scalars": [0.5, 2, True, 3],
        "bytes": "YWJj",
        "1": None,
    }


def test_numbers_come_back_as_they_were() -> None:
    sent = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    assert np.array_equal(np.array(json.loads(json_bytes(sent)), dtype=np.float32), sent)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_the_size_of_an_answer_is_known_before_it_is_made(dtype: str) -> None:
    numbers = np.random.default_rng(0).normal(size=(100, 100)).astype(dtype)
    answer = {"predicted_depth": {"shape": [100, 100], "data": numbers}, "depth": "x" * 1000}
    num_bytes = len(json_bytes(answer))
    assert is_larger(answer, num_bytes // 2) and not is_larger(answer, num_bytes * 2)


def test_an_answer_that_would_be_too_large_is_not_made() -> None:
    large = np.broadcast_to(np.float32(0.5), (1 << 20, 1 << 20))  # 4 TB, were it written out
    with pytest.raises(Refused, match="would have more than 67,108,864 bytes") as refused:
        asyncio.run(encode(lambda: [large], [large], LIMITS))
    assert refused.value.status == 413


@pytest.mark.parametrize(("results", "is_drawn", "is_apart"), [([0.5], False, False), ([0.5], True, True),
                                                               (np.zeros(100_000), False, True)])  # fmt: skip
def test_the_event_loop_does_not_wait_for_large_answers(results: Any, is_drawn: bool, is_apart: bool) -> None:
    threads = []

    def shaped() -> Any:
        threads.append(threading.current_thread())
        return results

    made = asyncio.run(encode(shaped, results, LIMITS, is_drawn))
    assert json.loads(made.data) == np.asarray(results).tolist()
    assert (threads[0] is not threading.current_thread()) == is_apart


def test_a_depth_may_have_no_picture() -> None:
    result = {"predicted_depth": {"shape": [1, 1], "data": np.zeros(1, np.float32)}, "depth": None}
    assert json.loads(json_bytes(reply("depth-estimation", result, None)))["depth"] is None
    with pytest.raises(Refused, match="with_picture"):
        picture_of_depth(result, None)
    assert picture_of_depth({"depth": {"bytes": b"png"}}, None) == Payload(b"png", "image/png")
