"""Which endpoints a cluster can never hold."""

from __future__ import annotations

from typing import Any

import pytest

import ray_pipelines as rp
from ray_pipelines.nodes import Node
from ray_pipelines.serve.config import validate_serving
from ray_pipelines.serve.room import check_fits

L4 = {"accelerator_type:L4": 1.0}


@pytest.mark.parametrize(
    ("workers", "replicas", "expected"),
    [
        ({}, 6, None),
        ({}, 7, "7 replica(s) of 1 CPUs each; only 6 fit, as the cluster has 6 CPUs and 2 GPUs on 2 node(s)"),
        ({"num_cpus": 4}, 1, None),
        ({"num_cpus": 3}, 2, "2 replica(s) of 3 CPUs each; only 1 fit"),
        ({"num_cpus": 3}, [1, 9], None),
        ({"num_cpus": 0}, 99, None),
        ({"num_gpus": 0.5}, 4, None),
        ({"num_gpus": 1}, 3, "3 replica(s) of 1 CPUs and 1 GPUs each; only 2 fit"),
        ({"num_gpus": 1, "accelerator_type": "L4"}, 2, None),
        ({"num_gpus": 1, "accelerator_type": "T4"}, 1, "1 GPUs each, accelerator_type: T4; only 0 fit"),
        ({"num_cpus": 16, "autoscaling": True}, 1, None),
    ],
)
def test_what_can_never_fit_is_refused(workers: dict[str, Any], replicas: Any, expected: str | None) -> None:
    values = {"task": "fill-mask", "workers": workers, "serve": {"replicas": replicas}}
    nodes = [Node(4, 2, L4), Node(2)]
    if expected is None:
        check_fits(validate_serving(values), nodes)
        return
    with pytest.raises(rp.ResourceError) as caught:
        check_fits(validate_serving(values), nodes)
    assert str(caught.value).startswith("serve.replicas: expected room for ") and expected in str(caught.value)
