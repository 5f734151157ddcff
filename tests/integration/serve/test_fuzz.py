"""Requests that follow an endpoint's own OpenAPI document, and requests that nearly do.

`RAY_PIPELINES_FUZZ_EXAMPLES` sets how many requests there are for each route and kind (unset: a few). Hypothesis
shrinks what fails, so that a failure names the smallest request that shows it.
"""

from __future__ import annotations

import base64
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from tests.integration.serve.test_clients import picture, recording

Endpoints = Callable[[str], str]
EXAMPLES = int(os.environ.get("RAY_PIPELINES_FUZZ_EXAMPLES", "8"))
TASKS = (
    "text-classification",
    "token-classification",
    "zero-shot-classification",
    "feature-extraction",
    "table-question-answering",
    "text-generation",
    "summarization",
    "image-classification",
    "image-text-to-text",
    "automatic-speech-recognition",
    "text-to-audio",
    "decision",
)
"""One for each kind of input, of answer and of OpenAI's routes."""

SELDOM_ANSWERED = {"table-question-answering", "automatic-speech-recognition", "image-text-to-text", "decision"}
"""Those for which hardly any request made at random is right."""


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("task", TASKS)
def test_no_request_fails_crashes_or_opens_anything(endpoints: Endpoints, task: str) -> None:
    url = endpoints(task)
    opened = url.rpartition("/")[0] + "/_opened"
    httpx2.get(opened)
    generates = "max_new_tokens" in httpx2.get(url + "/info").json()["parameters"]
    statuses: Counter[int] = Counter()
    for operation in operations(url):
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                derandomize="RAY_PIPELINES_FUZZ_EXAMPLES" not in os.environ,
                suppress_health_check=list(HealthCheck),
                database=None,
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: Any) -> None:
                if generates:
                    shorten(case.body)
                answer = case.call(base_url=url, timeout=90)
                check(answer, case.path)
                statuses[answer.status_code] += 1

            ask()
    print(task, statuses)
    found = httpx2.get(opened).json()
    assert not found, found
    assert 422 in statuses, "requests are refused"
    assert 200 in statuses or task in SELDOM_ANSWERED, "requests are answered"
    assert httpx2.get(url + "/health").status_code == 200


def operations(url: str) -> Iterator[Any]:
    """What the endpoint's document says that can be asked with a body."""
    document = with_files(httpx2.get(url + "/openapi.json").json())
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        operation = found.ok()
        if operation.method.upper() == "POST":
            yield operation


def with_files(schema: Any) -> Any:
    """The schema with pictures and recordings, whole and cut, where it asks for files in base64."""
    if isinstance(schema, list):
        return [with_files(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("contentEncoding") == "base64":
        files = [picture(), recording(0.2), picture()[:100], recording(0.2)[:50]]
        return {"enum": [base64.b64encode(file).decode() for file in files]}
    return {name: with_files(part) for name, part in schema.items()}


def shorten(body: Any) -> None:
    """Asks for few tokens where a request leaves that open: generations are what takes the time."""
    if not isinstance(body, dict):
        return
    if "messages" in body or "prompt" in body:
        body.setdefault("max_tokens", 4)
    parameters = body.setdefault("parameters", {}) if "inputs" in body else None
    if isinstance(parameters, dict):
        parameters.setdefault("max_new_tokens", 4)


def check(answer: Any, path: str) -> None:
    """An answer is a result, or a refusal in the form of the route."""
    if answer.status_code >= 500:
        pytest.fail(f"{path}: {answer.status_code}: {answer.text}, for {(answer.request.body or b'')[:5000]!r}")
    if answer.status_code < 400:
        return
    error = json.loads(answer.text)["error"]
    if path.startswith("/v1/"):
        assert isinstance(error["message"], str) and error["code"] == answer.status_code
    else:
        assert isinstance(error, str)
    assert "Traceback" not in answer.text and "model_kwargs" not in answer.text
