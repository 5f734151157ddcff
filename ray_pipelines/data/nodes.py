"""The nodes of a Ray cluster: what each has, and how many workers fit on it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Node", "cluster_nodes", "has_label"]

ONE_OF = re.compile(r"in\(([^)]*)\)")
ROUNDING = 1e-9


@dataclass(frozen=True)
class Node:
    """What one node has in all, used or not.

    Attributes:
        num_cpus: Its CPUs; 0 where the cluster keeps work away from it, as from many a head node.
        num_gpus: Its GPUs.
        resources: All that it has by Ray's names, such as `accelerator_type:A10G`.
        labels: Its labels, such as `ray.io/market-type`.
    """

    num_cpus: float
    num_gpus: float = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

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


def cluster_nodes() -> list[Node]:
    """The living nodes of the connected cluster."""
    import ray

    return [
        Node(
            num_cpus=node["Resources"].get("CPU", 0),
            num_gpus=node["Resources"].get("GPU", 0),
            resources=node["Resources"],
            labels=node.get("Labels", {}),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
