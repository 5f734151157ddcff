"""The application on a real Ray Serve."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import httpx2
import pyarrow as pa
import pytest

from ray_pipelines.engine.exchange import RowBatch
from ray_pipelines.engine.identity import digest_of
from ray_pipelines.errors import ConfigError
from ray_pipelines.media.limits import MediaLimits
from ray_pipelines.serve import start
from ray_pipelines.serve.config import validate_serving

Model = Callable[[str], str]


@pytest.fixture
def url(serve_url: str, model: Model) -> Iterator[str]:
    """An endpoint below a prefix, with a key."""
    from ray import serve

    from ray_pipelines.serve.application import app

    application = app({"task": "text-classification", "model": model("bert-classifier"), "parameters.top_k": "2"})
    env = {"env_vars": {"RAY_PIPELINES_API_KEYS": "first second"}}
    deployment = application._bound_deployment
    options = {**(deployment.ray_actor_options or {}), "runtime_env": env}
    serve.run(
        deployment.options(ray_actor_options=options).bind(*deployment.init_args), name="m", route_prefix="/models/m"
    )
    yield f"{serve_url}/models/m"
    serve.delete("m")


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
    described = handle.describe.remote().result()
    columns = pa.table({"text": ["Hello", None]})
    batch = RowBatch("sentiment-analysis", digest_of(described["identity"]), {}, 0, MediaLimits(), 2, columns)
    made = handle.run_rows.remote(batch).result()
    assert list(made.rows) == [0, 1]
    # The job says nothing of top_k: the endpoint's own does not show in its rows.
    assert [one["label"] for one in made.results[0].as_py()] == [first["label"]]
    assert made.errors[1].as_py()["type"] == "InvalidInput" and made.results[1].as_py() is None
    for other, message in (({"task": "fill-mask"}, "serves text-classification"), ({"identity": "x"}, "another model")):
        with pytest.raises(ConfigError, match=message):
            handle.run_rows.remote(dataclasses.replace(batch, **other)).result()
    assert handle.describe.remote().result()["stats"]["num_rows"] == 2


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


def test_starting_it_again_from_python_puts_the_new_version_in_its_place(serve_url: str, model: Model) -> None:
    from ray import serve

    values = {"task": "text-classification", "model": model("bert-classifier"), "workers": {"num_cpus": 0.1}}
    for count in (1, 2):
        again = {**values, "parameters": {"top_k": count}, "serve": {"name": "again", "route_prefix": "/again"}}
        url = start(validate_serving(again))
        assert url == f"{serve_url}/again"
        (labels,) = httpx2.post(url, json={"inputs": "Hello"}, timeout=60).json()
        assert len(labels) == count
    with pytest.raises(ConfigError, match='which "again" has'):
        start(validate_serving({**values, "serve": {"name": "other", "route_prefix": "/again"}}))
    serve.delete("again")
