"""Generations that nobody listens to any more, or that take too long.

The model of the endpoint `slow` takes 20 ms for each token; its requests may take 3 seconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

Endpoints = Callable[[str], str]
MANY = {"max_new_tokens": 400, "min_new_tokens": 400, "do_sample": False}


@pytest.fixture(scope="module", params=["bare"])
def slow(request: pytest.FixtureRequest, servers: Callable[[str], Endpoints]) -> str:
    """The URL of an endpoint that generates slowly."""
    return servers(request.param)("slow")


def num_steps_when_idle(url: str) -> int:
    """How many steps the model has done, once the device is free."""
    for _ in range(400):
        work = httpx2.get(url + "/_work").json()
        if not work["is_busy"]:
            return int(work["num_steps"])
        time.sleep(0.05)
    raise AssertionError("the device is still busy")


def events(response: httpx2.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        if line.startswith("data:") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data:"))


@pytest.mark.parametrize("headers", [{}, {"x-request-disconnect-disabled": "?1"}])
@pytest.mark.parametrize("is_chat", [False, True])
def test_a_closed_connection_stops_the_generation(slow: str, headers: dict[str, str], is_chat: bool) -> None:
    before = num_steps_when_idle(slow)
    chat = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 400, "stream": True}
    body = chat if is_chat else {"inputs": "a", "parameters": MANY, "stream": True}
    url = slow + ("/v1/chat/completions" if is_chat else "")
    with httpx2.stream("POST", url, json=body, headers=headers, timeout=60) as response:
        assert response.status_code == 200
        next(events(response))
    assert num_steps_when_idle(slow) - before < 140


@pytest.mark.parametrize(
    "parameters", [{"details": True}, {}, {"do_sample": True, "temperature": 1.5}], ids=["details", "plain", "sampled"]
)
def test_a_client_that_leaves_before_its_answer_stops_the_generation(slow: str, parameters: dict[str, Any]) -> None:
    before = num_steps_when_idle(slow)
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(slow, json={"inputs": "a", "parameters": {**MANY, **parameters}}, timeout=0.5)
    assert num_steps_when_idle(slow) - before < 140


def test_a_generation_goes_on_while_somebody_waits_for_it(slow: str) -> None:
    num_steps_when_idle(slow)
    body = {"inputs": "a", "parameters": {**MANY, "max_new_tokens": 60, "min_new_tokens": 60}}
    with ThreadPoolExecutor(2) as threads:
        stays = threads.submit(httpx2.post, slow, json=body, timeout=60)
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(slow, json=body, timeout=0.5)
        assert stays.result().status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("", {"inputs": "a", "parameters": MANY}),
        (
            "",
            {"inputs": ["a"] * 8, "parameters": {**MANY, "max_new_tokens": 60, "min_new_tokens": 60, "details": True}},
        ),
        ("/v1/completions", {"prompt": "a", "max_tokens": 100, "temperature": 0, "n": 8}),
    ],
    ids=["plain", "several with details", "several choices"],
)
def test_a_request_has_one_deadline_for_all_of_its_parts(slow: str, path: str, body: dict[str, Any]) -> None:
    before = num_steps_when_idle(slow)
    start_s = time.monotonic()
    assert httpx2.post(slow + path, json=body, timeout=60).status_code == 504
    assert time.monotonic() - start_s < 8
    assert num_steps_when_idle(slow) - before < 300


def test_more_generations_than_there_is_time_for_are_told_to_come_again(slow: str) -> None:
    num_steps_when_idle(slow)
    body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 15, "temperature": 0}
    url = slow + "/v1/chat/completions"
    assert httpx2.post(url, json=body, timeout=60).status_code == 200
    with ThreadPoolExecutor(40) as threads:
        answers = list(threads.map(lambda _: httpx2.post(url, json=body, timeout=60), range(40)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) > 20 and all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert any(answer.status_code == 200 for answer in answers)


def test_a_generation_ends_at_its_deadline_whatever_headers_say(slow: str) -> None:
    headers = {"x-request-timeout-seconds": "-1"}
    body = {"inputs": "a", "parameters": MANY, "stream": True}
    with httpx2.stream("POST", slow, json=body, headers=headers, timeout=60) as response:
        *tokens, last = events(response)
    assert 10 < len(tokens) < 390
    assert last == {"error": "The generation took too long.", "error_type": "incomplete_generation"}


def test_a_slow_reader_keeps_nobody_from_the_device(slow: str) -> None:
    body = {"inputs": "a", "parameters": {**MANY, "max_new_tokens": 40, "min_new_tokens": 40}, "stream": True}
    with httpx2.stream("POST", slow, json=body, timeout=60) as response:
        read = events(response)
        next(read)
        other = httpx2.post(slow, json={"inputs": "a", "parameters": {"max_new_tokens": 2}}, timeout=60)
        assert other.status_code == 200
        assert len(list(read)) == 39
