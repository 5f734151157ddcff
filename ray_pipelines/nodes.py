"""The nodes of a Ray cluster: what each has, and how many workers or replicas fit on it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "NODE_ID",
    "Node",
    "actors_of_this_job",
    "cluster_nodes",
    "has_label",
    "num_without_a_node",
    "where_work_is_done",
]

NODE_ID = "ray.io/node-id"
ONE_OF = re.compile(r"in\(([^)]*)\)")
ROUNDING = 1e-9
STARTING = ("PENDING_CREATION", "RESTARTING", "ALIVE")
"""States of Ray's actors that hold what they ask for, or will."""
NO_NODE = b"\xff"


@dataclass(frozen=True)
class Node:
    """What one node has for a job, used or not.

    Attributes:
        num_cpus: Its CPUs; 0 where the cluster keeps work away from it, as from many a head node.
        num_gpus: Its GPUs.
        resources: All that it has by Ray's names, such as `accelerator_type:A10G`.
        labels: Its labels, such as `ray.io/market-type`.
        held: What else it has, by Ray's names, and others hold who do not give it back.
    """

    num_cpus: float
    num_gpus: float = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    held: Mapping[str, float] = field(default_factory=dict)

    def suits(self, placement: Mapping[str, Any]) -> bool:
        """Whether a worker that is placed so may run here, be there room or not.

        >>> Node(8, 1, {"accelerator_type:L4": 1}).suits({"accelerator_type": "L4"})
        True
        """
        kind = placement.get("accelerator_type")
        return (
            (kind is None or f"accelerator_type:{kind}" in self.resources)
            and all(has_label(self.labels, *wanted) for wanted in placement.get("label_selector", {}).items())
            and all(self.resources.get(name, 0) >= amount for name, amount in placement.get("resources", {}).items())
        )

    def room(self, num_cpus: float, num_gpus: float, placement: Mapping[str, Any]) -> float:
        """How many workers fit here, without end where they ask for nothing.

        A worker with a part of a GPU has it of one GPU: two GPUs hold four workers of 0.4, not five.

        >>> Node(8, 2).room(1, 0.4, {})
        4
        """
        if not self.suits(placement):
            return 0
        rooms = [self.resources[name] / amount for name, amount in placement.get("resources", {}).items()]
        if num_cpus:
            rooms.append(self.num_cpus / num_cpus)
        if 0 < num_gpus < 1:
            rooms.append(int(self.num_gpus) * int(1 / num_gpus + ROUNDING))
        elif num_gpus:
            rooms.append(self.num_gpus / num_gpus)
        return int(min(rooms) + ROUNDING) if rooms else float("inf")


def has_label(labels: Mapping[str, str], key: str, wanted: str) -> bool:
    """Whether a node's labels are as Ray's label selectors say: `value`, `!value`, `in(a, b)` or `!in(a, b)`.

    >>> has_label({"zone": "a"}, "zone", "in(a, b)"), has_label({"zone": "a"}, "zone", "!a")
    (True, False)
    """
    text = wanted.strip()
    positive = text.removeprefix("!")
    several = ONE_OF.fullmatch(positive)
    values = [value.strip() for value in several[1].split(",")] if several else [positive]
    return (labels.get(key) in values) != text.startswith("!")


def where_work_is_done(nodes: Sequence[Node]) -> dict[str, Any]:
    """Ray's options that keep an actor without CPUs, which fits anywhere, away from nodes that have none to give.

    >>> where_work_is_done([Node(0, labels={"ray.io/node-id": "a1"}), Node(4, labels={"ray.io/node-id": "b2"})])
    {'label_selector': {'ray.io/node-id': '!in(a1)'}}
    >>> where_work_is_done([Node(0, held={"CPU": 4.0})])
    {}
    """
    kept_free = [node.labels[NODE_ID] for node in nodes if node.num_cpus + node.held.get("CPU", 0) <= 0]
    return {"label_selector": {NODE_ID: f"!in({','.join(kept_free)})"}} if kept_free else {}


def cluster_nodes(*, beside_jobs: bool = False, beside_serve: bool = True) -> list[Node]:
    """The living nodes of the connected cluster, without what is held for good: replicas of Serve never end.

    Args:
        beside_jobs: Also without what the workers of other jobs hold for now.
        beside_serve: If not, with all that they have, held or not.
    """
    import ray

    held = _held(beside_jobs) if beside_serve else defaultdict(Counter)
    nodes = []
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        by_others = held[node["NodeID"]]
        left = {name: amount - by_others.get(name, 0.0) for name, amount in node["Resources"].items()}
        nodes.append(
            Node(left.get("CPU", 0), left.get("GPU", 0), resources=left, labels=node.get("Labels", {}), held=by_others)
        )
    return nodes


def actors_of_this_job() -> dict[bytes, Mapping[str, float]]:
    """The actors of this driver that have a node, up or not: what each asks for, by Ray's names."""
    own = _own_job()
    return {
        actor.actor_id: dict(actor.required_resources)
        for state in STARTING
        for actor in _actors(state)
        if actor.job_id == own
    }


def num_without_a_node(class_name: str) -> int:
    """How many actors of a class have been asked for and have no node yet."""
    return sum(actor.class_name == class_name and not _has_node(actor) for actor in _table("PENDING_CREATION"))


def _held(by_jobs: bool) -> dict[str, Counter[str]]:
    """Node: what actors of others hold there, those that outlive their job (as all of Serve do) and perhaps the rest.

    An actor of another job that has a node and is not up yet counts: it will take what is free by the time it is.
    """
    own = _own_job()
    held: dict[str, Counter[str]] = defaultdict(Counter)
    for state in STARTING if by_jobs else ("ALIVE",):
        for actor in _actors(state):
            is_up = state == "ALIVE"
            if (actor.is_detached and is_up) or (by_jobs and not actor.is_detached and actor.job_id != own):
                held[actor.node_id.hex()].update(dict(actor.required_resources))
    return held


def _own_job() -> bytes:
    import ray

    return bytes.fromhex(ray.get_runtime_context().get_job_id())


def _actors(state: str) -> Iterator[Any]:
    """The actors in a state that have a node."""
    return filter(_has_node, _table(state))


def _has_node(actor: Any) -> bool:
    return bool(actor.node_id.strip(NO_NODE))


def _table(state: str) -> Iterator[Any]:
    """The actors in a state.

    From Ray's own table of actors, as its public state API needs a dashboard, which a cluster may not have.
    """
    from ray._private.state import state as cluster
    from ray.core.generated.gcs_pb2 import ActorTableData

    for serialized in cluster._connect_and_get_accessor().get_actor_table(None, state):
        yield ActorTableData.FromString(serialized)
