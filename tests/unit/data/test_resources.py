"""What workers get on clusters of all sizes, and which plans are refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_pipelines import ConfigError, ResourceError, tasks
from ray_pipelines.config import WorkersConfig
from ray_pipelines.data.resources import TASK_CPUS, Node, plan_workers

TEXT, IMAGE = tasks.get("text-classification"), tasks.get("image-classification")


@pytest.mark.parametrize(
    ("nodes", "settings", "expected"),
    [
        ([Node(2)], {}, (1, 1, 0, 2)),
        ([Node(1)], {}, (1, 0, 0, 1)),
        ([Node(8)], {}, (1, 7, 0, 8)),
        ([Node(8)], {"num_cpus": 3}, (1, 3, 0, 3)),
        ([Node(8)], {"concurrency": 2}, (2, 3, 0, 4)),
        ([Node(2)], {"concurrency": 2}, (2, 0.5, 0, 1)),
        ([Node(8), Node(8)], {}, (2, 7, 0, 8)),
        ([Node(96, 8)], {"num_gpus": 1}, (8, 1, 1, 1)),
        ([Node(8, 1)], {"num_gpus": 0.25}, (4, 1, 0.25, 1)),
        ([Node(8)], {"num_threads": 5}, (1, 7, 0, 5)),
    ],
)
def test_defaults_fit_the_cluster(nodes: list[Node], settings: dict[str, Any], expected: tuple[float, ...]) -> None:
    plan = plan_workers(WorkersConfig(**settings), TEXT, nodes)
    assert (plan.min_workers, plan.num_cpus, plan.num_gpus, plan.num_threads) == expected


@given(st.lists(st.integers(1, 64), min_size=1, max_size=5), st.none() | st.integers(1, 20))
def test_default_plan_is_never_one_that_hangs(cpus: list[int], concurrency: int | None) -> None:
    nodes = [Node(num_cpus) for num_cpus in cpus]
    try:
        plan = plan_workers(WorkersConfig(concurrency=concurrency), TEXT, nodes)
    except ResourceError:
        assert concurrency is not None and concurrency > len(nodes)
        return
    assert plan.min_workers * plan.num_cpus + TASK_CPUS <= sum(cpus)


@pytest.mark.parametrize(
    ("nodes", "settings", "message"),
    [
        ([Node(2)], {"num_cpus": 2}, r"1 x 2 CPUs for workers \+ 1 to read and write = 3 CPUs"),
        ([Node(8)], {"num_gpus": 1}, "the cluster has 8 CPUs and 0 GPUs"),
        ([Node(8, 1)], {"num_gpus": 1, "concurrency": 2}, r"2 worker\(s\) of 1 CPUs and 1 GPUs each"),
        ([Node(4), Node(4)], {"num_cpus": 6}, r"2 worker\(s\) of 6 CPUs each"),
        ([Node(3), Node(3)], {"num_cpus": 2, "concurrency": 3}, "7 CPUs"),
        ([Node(5), Node(5)], {"num_cpus": 3, "concurrency": 3}, "only 2 fit"),
    ],
)
def test_plan_that_would_hang_is_refused(nodes: list[Node], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ResourceError, match=message):
        plan_workers(WorkersConfig(**settings), TEXT, nodes)


def test_growing_cluster_is_not_refused() -> None:
    assert plan_workers(WorkersConfig(num_gpus=1, autoscaling=True), TEXT, [Node(2)]).num_gpus == 1


def test_stages_are_split_where_a_gpu_is_fed_with_media() -> None:
    nodes = [Node(16, 1)]
    assert plan_workers(WorkersConfig(num_gpus=1), IMAGE, nodes).stages == "split"
    assert plan_workers(WorkersConfig(num_gpus=1), TEXT, nodes).stages == "fused"
    assert plan_workers(WorkersConfig(), IMAGE, nodes).stages == "fused"
    assert plan_workers(WorkersConfig(stages="split"), TEXT, nodes).stages == "split"
    with pytest.raises(ConfigError, match="decision cannot be split into stages"):
        plan_workers(WorkersConfig(stages="split"), tasks.get("decision"), nodes)
