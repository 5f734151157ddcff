"""What workers get on clusters of all sizes, and which plans are refused."""

from __future__ import annotations

import inspect
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ray_pipelines as rp
from ray_pipelines import ConfigError, ResourceError, tasks
from ray_pipelines.config import WorkersConfig
from ray_pipelines.data.resources import TASK_CPUS, plan_workers
from ray_pipelines.nodes import Node, has_label

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
        # A head node that takes no work; nodes of one CPU; nodes of unequal size.
        ([Node(0), Node(8)], {}, (1, 7, 0, 8)),
        ([Node(1), Node(1), Node(1)], {}, (2, 1, 0, 1)),
        ([Node(1), Node(1)], {"concurrency": 2}, (2, 0, 0, 1)),
        ([Node(96), Node(2)], {}, (1, 95, 0, 96)),
        ([Node(16), Node(8)], {}, (3, 7, 0, 8)),
        ([Node(96), Node(2)], {"concurrency": 2}, (2, 47, 0, 48)),
        ([Node(2), Node(2)], {"concurrency": 4}, (4, 0.5, 0, 1)),
        ([Node(4), Node(4), Node(2)], {"num_cpus": 4}, (2, 4, 0, 4)),
        # GPUs on some nodes, in parts, with few CPUs beside them.
        ([Node(0), Node(16), Node(8, 4), Node(8, 4)], {"num_gpus": 1}, (8, 1, 1, 1)),
        ([Node(8, 1), Node(8, 1)], {"num_gpus": 0.4}, (4, 1, 0.4, 1)),
        ([Node(8, 2)], {"num_gpus": 0.5}, (4, 1, 0.5, 1)),
        ([Node(1, 1)], {"num_gpus": 1}, (1, 0, 1, 1)),
        ([Node(4, 4)], {"num_gpus": 1}, (4, 0.75, 1, 1)),
        ([Node(2), Node(4, 8)], {"num_gpus": 1}, (8, 0.5, 1, 1)),
        ([Node(16, 8)], {"num_gpus": 2}, (4, 1, 2, 1)),
    ],
)
def test_what_is_said_or_unknown_fits_the_cluster(
    nodes: list[Node], settings: dict[str, Any], expected: tuple[float, ...]
) -> None:
    plan = plan_workers(WorkersConfig(**settings), TEXT, nodes)
    assert (plan.min_workers, plan.num_cpus, plan.num_gpus, plan.num_threads) == expected


SMALL, BERT, LARGE = 1 << 20, 440 << 20, 30 << 30


def node(num_cpus: float, gib: float) -> Node:
    return Node(num_cpus, resources={"memory": gib * (1 << 30)})


@pytest.mark.parametrize(
    ("nodes", "settings", "model_bytes", "num_rows", "expected"),
    [
        ([node(2, 16)], {}, BERT, None, (2, 0.5, 1)),
        ([node(8, 64)], {}, BERT, None, (8, 0.87, 1)),
        ([node(96, 384)], {}, BERT, None, (96, 0.98, 1)),
        ([node(16, 64), node(8, 32)], {}, BERT, None, (24, 0.91, 1)),
        ([node(0, 64), node(8, 64)], {}, BERT, None, (8, 0.87, 1)),
        ([node(8, 64)], {"num_threads": 4}, BERT, None, (2, 3, 4)),
        ([node(8, 64)], {"num_cpus": 3}, BERT, None, (1, 3, 3)),
        ([node(8, 64)], {"concurrency": 2}, BERT, None, (2, 3, 4)),
        # Memory for few, and for one only.
        ([node(96, 384)], {}, LARGE, None, (3, 31, 32)),
        ([node(8, 16)], {}, LARGE, None, (1, 7, 8)),
        ([node(2, 3)], {}, BERT, None, (1, 1, 2)),
        # Rows for few, and for one only.
        ([node(96, 384)], {}, SMALL, 200, (4, 23, 24)),
        ([node(8, 64)], {}, SMALL, 10, (1, 7, 8)),
    ],
)
def test_a_cpu_node_has_as_many_workers_as_cores_memory_and_rows_allow(
    nodes: list[Node],
    settings: dict[str, Any],
    model_bytes: int,
    num_rows: int | None,
    expected: tuple[float, ...],
) -> None:
    plan = plan_workers(WorkersConfig(**settings), TEXT, nodes, model_bytes, num_rows)
    assert (plan.min_workers, plan.num_cpus, plan.num_threads) == expected


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 64), st.sampled_from([0, 0, 1, 4])), min_size=1, max_size=5),
    st.none() | st.integers(1, 20),
    st.sampled_from([0, 0.3, 0.5, 1, 2]),
    st.none() | st.integers(0, 1 << 40),
    st.randoms(),
)
def test_default_plan_is_never_one_that_hangs(
    sizes: list[tuple[int, int]],
    concurrency: int | None,
    num_gpus: float,
    model_bytes: int | None,
    random: Random,
) -> None:
    nodes = [Node(*size, resources={"memory": 4 << 30} if size[0] % 2 else {}) for size in sizes]
    try:
        plan = plan_workers(WorkersConfig(concurrency=concurrency, num_gpus=num_gpus), TEXT, nodes, model_bytes)
    except ResourceError:
        rooms = [node.room(0, num_gpus, {}) for node in nodes]
        assert not any(cpus for cpus, _ in sizes) or (num_gpus and sum(rooms) < (concurrency or 1))
        return
    # Wherever the workers come to stand, each on a node with room for it, some node has a CPU left.
    free = {index: (node, 0) for index, node in enumerate(nodes)}
    for _ in range(plan.min_workers):
        open_nodes = [index for index, (node, held) in free.items() if held + 1 <= plan.room_on(node)]
        index = random.choice(open_nodes)
        free[index] = (free[index][0], free[index][1] + 1)
    assert any(node.num_cpus - held * plan.num_cpus >= TASK_CPUS - 1e-9 for node, held in free.values())


@pytest.mark.parametrize(
    ("nodes", "settings", "message"),
    [
        ([Node(2)], {"num_cpus": 2}, r"1 x 2 CPUs for workers \+ 1 to read and write = 3 CPUs"),
        ([Node(8)], {"num_gpus": 1}, "the cluster has 8 CPUs and 0 GPUs"),
        ([Node(8, 1)], {"num_gpus": 1, "concurrency": 2}, r"2 worker\(s\) of 1 CPUs and 1 GPUs each"),
        ([Node(4), Node(4)], {"num_cpus": 6}, r"1 worker\(s\) of 6 CPUs each"),
        ([Node(3), Node(3)], {"num_cpus": 2.5, "concurrency": 2}, "which they can leave with less on each"),
        ([Node(8, 1), Node(8, 1)], {"num_gpus": 0.4, "concurrency": 5}, "only 4 fit"),
        ([Node(8, 1)], {"num_gpus": 1, "accelerator_type": "L4"}, "expected a node with accelerator_type: L4"),
        ([Node(8, labels={"zone": "a"})], {"label_selector": {"zone": "b"}}, "Their labels are zone=a"),
        ([Node(8, resources={"disk": 1})], {"resources": {"disk": 2}}, "their resources disk"),
        ([Node(3), Node(3)], {"num_cpus": 2, "concurrency": 3}, "7 CPUs"),
        ([Node(5), Node(5)], {"num_cpus": 3, "concurrency": 3}, "only 2 fit"),
    ],
)
def test_plan_that_would_hang_is_refused(nodes: list[Node], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ResourceError, match=message):
        plan_workers(WorkersConfig(**settings), TEXT, nodes)


def test_growing_cluster_is_not_refused() -> None:
    assert plan_workers(WorkersConfig(num_gpus=1, autoscaling=True), TEXT, [Node(2)]).num_gpus == 1


@pytest.mark.parametrize(("concurrency", "num_warnings"), [(None, 1), ((1, 4), 0)])
def test_growing_cluster_should_know_how_far(
    concurrency: Any, num_warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    plan_workers(WorkersConfig(concurrency=concurrency, autoscaling=True), TEXT, [Node(4)], SMALL)
    assert len(caplog.records) == num_warnings


def test_stages_are_split_where_a_gpu_is_fed_with_media() -> None:
    nodes = [Node(16, 1)]
    assert plan_workers(WorkersConfig(num_gpus=1), IMAGE, nodes).stages == "split"
    assert plan_workers(WorkersConfig(num_gpus=1), TEXT, nodes).stages == "fused"
    assert plan_workers(WorkersConfig(), IMAGE, nodes).stages == "fused"
    assert plan_workers(WorkersConfig(stages="split"), TEXT, nodes).stages == "split"
    with pytest.raises(ConfigError, match="decision cannot be split into stages"):
        plan_workers(WorkersConfig(stages="split"), tasks.get("decision"), nodes)


def test_workers_are_counted_on_the_nodes_that_suit_them() -> None:
    kinds = [{"accelerator_type:A10G": 1.0}, {"accelerator_type:T4": 1.0}]
    nodes = [
        Node(4),
        Node(8, 1, kinds[0], {"ray.io/market-type": "spot"}),
        Node(8, 1, kinds[1], {"ray.io/market-type": "on-demand"}),
        Node(8, 1, kinds[0], {"ray.io/market-type": "on-demand"}),
    ]
    plan = plan_workers(WorkersConfig(num_gpus=1, accelerator_type="A10G"), TEXT, nodes)
    assert plan.describe() == "2 x (1 CPU, 1 A10G GPU, 1 thread), fused stages"
    assert plan.ray_options == {"num_cpus": 1, "num_gpus": 1, "accelerator_type": "A10G"}
    spot = WorkersConfig(num_gpus=1, label_selector={"ray.io/market-type": "!spot"}, resources={})
    assert plan_workers(spot, TEXT, nodes).min_workers == 2


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        ("a", True),
        ("b", False),
        ("!a", False),
        ("!b", True),
        ("in(a, b)", True),
        ("!in(a, b)", False),
        ("in(c)", False),
    ],
)
def test_label_selectors_mean_what_they_mean_to_ray(wanted: str, matches: bool) -> None:
    assert has_label({"zone": "a"}, "zone", wanted) == matches
    assert has_label({}, "zone", wanted) == wanted.startswith("!")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_gpus": 1.5}, "a part of one GPU, or a whole number"),
        ({"accelerator_type": "L4"}, "has no effect without num_gpus"),
        ({"resources": {"CPU": 2}}, "Set num_cpus instead"),
        ({"resources": {"disk": 0}}, "greater than 0"),
    ],
)
def test_what_ray_would_refuse_later_is_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WorkersConfig(**settings)


def test_python_takes_what_a_job_file_takes() -> None:
    own = {name for name in WorkersConfig.model_fields if not name.startswith("serve")}
    assert own | {"workers"} <= inspect.signature(rp.pipeline).parameters.keys()
    settings: dict[str, Any] = {
        "num_gpus": 1,
        "accelerator_type": "L4",
        "label_selector": {"pool": "gpu"},
        "resources": {"disk": 1},
        "concurrency": (1, 4),
        "autoscaling": True,
    }
    spec = rp.pipeline("text-classification", model="org/model", **settings)
    assert spec.workers == WorkersConfig(**settings)


def test_a_cluster_that_has_only_a_head_yet_is_planned_for() -> None:
    plan = plan_workers(WorkersConfig(autoscaling=True, concurrency=(1, 4)), TEXT, [Node(0)])
    assert (plan.min_workers, plan.max_workers, plan.num_cpus) == (1, 4, 1)
    plan = plan_workers(WorkersConfig(autoscaling=True, concurrency=4, num_gpus=1), TEXT, [Node(0)])
    assert (plan.min_workers, plan.num_cpus, plan.num_gpus) == (4, 1, 1)


def test_a_growing_cluster_needs_to_know_how_far(caplog: pytest.LogCaptureFixture) -> None:
    plan_workers(WorkersConfig(num_gpus=1, autoscaling=True, concurrency=(1, 4)), TEXT, [Node(2)])
    assert not caplog.records
    plan_workers(WorkersConfig(num_gpus=1, autoscaling=True), TEXT, [Node(2)])
    assert "grows to 1 worker(s)" in caplog.text


def test_what_others_hold_is_named_where_the_rest_is_too_little() -> None:
    nodes = [Node(1, 0, held={"CPU": 3, "GPU": 1})]
    has = r"has 1 CPUs and 0 GPUs on 1 node\(s\), beside 3 CPUs and 1 GPUs that others hold"
    with pytest.raises(ResourceError, match=has):
        plan_workers(WorkersConfig(num_gpus=1), TEXT, nodes)
