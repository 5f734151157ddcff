"""The application on a real Ray Serve."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx2
import pytest

from ray_pipelines.errors import ConfigError, RowError
from ray_pipelines.serve.config import validate_serving
from tests.integration.serve.conftest import free_port

Model = Callable[[str], str]


@pytest.fixture
def url(ray_cluster: None, model: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An endpoint below a prefix, with a key."""
    from ray import serve

    from ray_pipelines.serve.application import app

    port = free_port()
    monkeypatch.setenv("RAY_PIPELINES_API_KEYS", "first second")
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    application = app({"task": "text-classification", "model": model("bert-classifier"), "parameters.top_k": "2"})
    env = {"env_vars": {"RAY_PIPELINES_API_KEYS": "first second"}}
    deployment = application._bound_deployment
    options = {**(deployment.ray_actor_options or {}), "runtime_env": env}
    serve.run(
        deployment.options(ray_actor_options=options).bind(*deployment.init_args), name="m", route_prefix="/models/m"
    )
    yield f"http://127.0.0.1:{port}/models/m"
    serve.shutdown()


def test_a_replica_answers_requests_with_a_key_and_rows_of_jobs(url: str) -> None:
    from ray import serve

    key = {"authorization": "Bearer second"}
    assert httpx2.get(url + "/health").status_code == 200
    assert httpx2.post(url, json={"inputs": "Hello"}).status_code == 401
    assert httpx2.post(url, json={"inputs": "Hello"}, headers={"authorization": "Bearer third"}).status_code == 401
    for path in ("", "/", "/v1"):
        ((first, second),) = httpx2.post(url + path, json={"inputs": "Hello"}, headers=key).json()
        assert first["score"] >= second["score"]
    info = httpx2.get(url + "/info", headers=key).json()
    assert info["model_id"] == "bert-classifier"
    handle = serve.get_app_handle("m")
    error = RowError("read", "BrokenLine", "line 3")
    rows = [{"text": "Hello"}, error, {"text": 3}]
    made = handle.run_rows.remote("text-classification", {"top_k": 1}, rows).result()
    assert [one["label"] for one in made[0]] == [first["label"]]
    assert made[1] == error
    assert (made[2].stage, made[2].type) == ("decode", "InvalidInput")
    with pytest.raises(ConfigError, match="the endpoint has text-classification"):
        handle.run_rows.remote("fill-mask", {}, rows).result()
    assert handle.describe.remote().result()["stats"]["num_rows"] == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task": "text-clasification"}, 'Did you mean "text-classification"'),
        ({"task": "text-classification", "parameters": {"topk": 1}}, 'Did you mean "top_k"'),
        ({"task": "text-classification", "serve": {"replicas": 0}}, "at least 1 replica"),
        ({"task": "text-classification", "serve": {"limit": {}}}, "serve.limit: unknown name"),
    ],
)
def test_a_wrong_endpoint_is_refused_before_it_starts(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate_serving(values)
