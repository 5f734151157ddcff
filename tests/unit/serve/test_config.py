"""What describes an endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_pipelines.errors import ConfigError
from ray_pipelines.serve.config import read_serving, validate_serving

ROOT = Path(__file__).parents[3]


def test_the_example_configuration_of_serve_describes_an_endpoint_that_the_example_job_fits() -> None:
    (application,) = yaml.safe_load((ROOT / "cluster_configs/serve.yaml").read_text())["applications"]
    serving = validate_serving(application["args"])
    job = yaml.safe_load((ROOT / "jobs/shared-with-serve.yaml").read_text())
    assert application["import_path"] == "ray_pipelines.serve:app"
    assert (serving.task, serving.model.name) == (job["task"], job["model"])
    assert job["workers"] == f"serve://{application['name']}"


def test_a_file_serves_that_is_a_job_file_too(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    values: dict[str, Any] = {"task": "fill-mask", "model": "m", "read": {"path": "in"}, "serve": {"name": "app"}}
    path.write_text(yaml.safe_dump({**values, "write": {"path": "out"}, "workers": {"num_gpus": 1}}))
    assert read_serving(path).serve.name == "app"
    path.write_text(yaml.safe_dump({**values, "workers": "serve://app"}))
    with pytest.raises(ConfigError, match="what serves has the model itself"):
        read_serving(path)
    assert read_serving(path, ["workers={}"]).workers.serve is None


@pytest.mark.parametrize(("own", "client", "expected"), [(1000, 200, 200), (50, 200, 50), (1000, 1000, 1000)])
def test_the_stricter_of_the_limits_of_rows_and_of_clients_holds(
    own: int, client: int, expected: int, tmp_path: Path
) -> None:
    path = tmp_path / "serving.yaml"
    limits = {"limits": {"max_aspect_ratio": own}, "serve": {"limits": {"max_aspect_ratio": client}}}
    path.write_text(yaml.safe_dump({"task": "depth-estimation", "model": "m", **limits}))
    assert read_serving(path).media_limits().max_aspect_ratio == expected


@pytest.mark.parametrize(
    ("serve", "expected"),
    [
        ({"route_prefix": "app"}, "serve.route_prefix: expected a text that matches ^/; got 'app'."),
        ({"replicas": [3, 1]}, "serve.replicas: expected at least 1 replica, as N or [least, most], least first; got"),
    ],
)
def test_a_wrong_setting_is_told_by_its_name(serve: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        validate_serving({"task": "fill-mask", "serve": serve})
    assert expected in str(error.value)
