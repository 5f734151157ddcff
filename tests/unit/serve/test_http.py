"""The routes without a model: who may ask, and what refusals look like."""

from __future__ import annotations

import asyncio
import gc
import itertools
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from ray_pipelines import tasks
from ray_pipelines.serve.config import ServeConfig
from ray_pipelines.serve.http import build_app
from ray_pipelines.serve.security import Guard


class Pipeline:
    """Stands in for an endpoint."""

    def __init__(self, task: str, error: Exception) -> None:
        self.task = tasks.get(task)
        self.serving = SimpleNamespace(serve=ServeConfig(timeout_s=5))
        self.limits = self.serving.serve.limits
        self.model_id = "model"
        self.error = error

    def info(self) -> dict[str, Any]:
        return {"task": self.task.name}

    async def parse(self, content_type: str | None, body: bytes) -> Any:
        raise self.error

    async def parse_object(self, body: bytes, make_inputs: Any) -> Any:
        raise self.error


def ask(
    app: Any, method: str, path: str, headers: dict[str, str] | list[tuple[bytes, bytes]] | None = None
) -> httpx2.Response:
    async def main() -> httpx2.Response:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://here") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(main())


@pytest.mark.parametrize("task", ["text-generation", "feature-extraction", "automatic-speech-recognition"])
def test_every_path_but_health_needs_a_key(task: str) -> None:
    app = build_app(Pipeline(task, ValueError()), Guard.of(["first", "zweiter-schlüssel"]))  # type: ignore[arg-type]
    paths = ["/", "/v1", "/info", "/openapi.json", "/v1/models", "/v1/models/a", "/v1/chat/completions", "//",
             "/v1/embeddings", "/v1/audio/transcriptions", "/nothing", "/health/x"]  # fmt: skip
    keys = (None, "Bearer", "Bearer ", "Bearer third", "Basic first", "first", "Bearer first x", "Bearer firs")
    for path, method, key in itertools.product(paths, ("GET", "POST", "OPTIONS"), keys):
        answer = ask(app, method, path, {"authorization": key} if key else None)
        assert answer.status_code == 401, (method, path, key)
        assert answer.headers["www-authenticate"] == "Bearer"
    assert ask(app, "GET", "/health").status_code == 200
    for key in ("first", "zweiter-schlüssel"):
        assert ask(app, "GET", "/info", [(b"authorization", f"bearer {key}".encode())]).status_code == 200


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import hmac

    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda one, other: compared.append(other) or real(one, other))
    guard = Guard.of(["a", "b", "c"])
    guard.check(b"Bearer a")
    assert compared == [*guard.digests] and len(compared) == 3, "also those behind the one that fits"


def test_nothing_of_an_exception_is_answered_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    app = build_app(Pipeline("text-generation", KeyError("my secret")), Guard())  # type: ignore[arg-type]
    for path in ("/", "/v1/chat/completions"):
        answer = ask(app, "POST", path, {"x-secret": "my secret"})
        assert answer.status_code == 500
        assert "secret" not in answer.text
    assert "KeyError" in caplog.text and "secret" not in caplog.text


def test_an_error_after_the_client_has_gone_is_not_logged_either(caplog: pytest.LogCaptureFixture) -> None:
    app = build_app(Pipeline("text-generation", KeyError("my secret")), Guard())  # type: ignore[arg-type]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}
    messages = [{"type": "http.request", "body": b"{}"}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    gc.collect()
    assert sent[0]["status"] == 499
    assert "secret" not in caplog.text


def test_refusals_have_the_form_of_their_route() -> None:
    app = build_app(Pipeline("text-generation", KeyError()), Guard())  # type: ignore[arg-type]
    assert ask(app, "GET", "/nothing").json() == {"error": "There is no such route.", "error_type": "not_found"}
    wrong = ask(app, "GET", "/")
    assert (wrong.headers["allow"], wrong.json()["error"]) == ("POST", "This route takes POST.")
    error = ask(app, "GET", "/v1/nothing").json()["error"]
    assert (error["message"], error["code"]) == ("There is no such route.", 404)


def test_an_answer_has_a_plain_name() -> None:
    app = build_app(Pipeline("text-generation", KeyError()), Guard())  # type: ignore[arg-type]
    assert ask(app, "GET", "/health", {"x-request-id": "my-name-1"}).headers["x-request-id"] == "my-name-1"
    for bad in ("a b", "a" * 65, "<script>", ""):
        assert ask(app, "GET", "/health", {"x-request-id": bad}).headers["x-request-id"] != bad


def test_answers_are_observed_with_their_status() -> None:
    seen: list[int] = []
    app = build_app(Pipeline("fill-mask", KeyError()), Guard.of(["k"]), lambda status, _: seen.append(status))  # type: ignore[arg-type]
    ask(app, "GET", "/health")
    ask(app, "GET", "/info")
    ask(app, "GET", "/info", {"authorization": "Bearer k"})
    ask(app, "POST", "/", {"authorization": "Bearer k"})
    assert seen == [401, 200, 500]
