"""Room for the replicas of an endpoint: what the cluster can never hold is refused, and what is waited for is said.

Serve waits without a word for resources. Other applications and jobs may give theirs back, so only what is more than
the cluster has is refused.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import ray

from ray_pipelines.errors import ResourceError
from ray_pipelines.nodes import Node, cluster_nodes, num_without_a_node
from ray_pipelines.serve.config import Serving

__all__ = ["check_fits", "waiting_aloud"]

logger = logging.getLogger(__name__)

LOOK_S, SAY_WAITING_S = 4.0, 60.0


def check_fits(serving: Serving, nodes: Sequence[Node]) -> None:
    """Raises if the replicas would wait for ever.

    Args:
        serving: What is to be served.
        nodes: The cluster, with all that it has.

    Raises:
        ResourceError: They would.

    >>> from ray_pipelines.serve.config import validate_serving
    >>> check_fits(validate_serving({"task": "fill-mask", "workers": {"num_cpus": 2}}), [Node(1), Node(2)])
    """
    workers = serving.workers
    least, _ = serving.serve.bounds
    fitting = sum(node.room(serving.num_cpus, workers.num_gpus, workers.placement) for node in nodes)
    if fitting >= least or workers.autoscaling:
        return
    raise ResourceError(
        f"serve.replicas: expected room for {_replicas(least, serving)}; only {fitting:g} fit, as {_cluster(nodes)}. A "
        "replica cannot be spread over nodes. Lower workers.num_cpus, workers.num_gpus or serve.replicas, add nodes, "
        "or set workers.autoscaling if the cluster grows on demand."
    )


@contextmanager
def waiting_aloud(serving: Serving, class_name: str) -> Iterator[None]:
    """Says now and then, while the block runs, that replicas wait for room, if they do.

    Args:
        serving: What is served.
        class_name: Ray's name for the replicas.
    """
    is_over = threading.Event()
    watching = threading.Thread(target=_watch, args=(serving, class_name, is_over), daemon=True)
    watching.start()
    try:
        yield
    finally:
        is_over.set()
        watching.join()


def _watch(serving: Serving, class_name: str, is_over: threading.Event) -> None:
    said_s, num_before = -math.inf, 0
    # Of a cluster that is gone there is nothing to say, and the start itself says so.
    with suppress(Exception):
        while not is_over.wait(LOOK_S):
            num_waiting = num_without_a_node(class_name)
            # One that has just been asked for is without a node for a moment.
            if num_waiting and num_before and time.monotonic() - said_s > SAY_WAITING_S:
                free = ray.available_resources()
                logger.warning(
                    "waiting for room for %s: %s, of which %g CPUs and %g GPUs are free.",
                    _replicas(num_waiting, serving),
                    _cluster(cluster_nodes(beside_serve=False)),
                    free.get("CPU", 0),
                    free.get("GPU", 0),
                )
                said_s = time.monotonic()
            num_before = num_waiting


def _replicas(number: int, serving: Serving) -> str:
    workers = serving.workers
    gpus = f" and {workers.num_gpus:g} GPUs" if workers.num_gpus else ""
    placed = "".join(f", {name}: {value}" for name, value in workers.placement.items())
    return f"{number} replica(s) of {serving.num_cpus:g} CPUs{gpus} each{placed}"


def _cluster(nodes: Sequence[Node]) -> str:
    num_cpus, num_gpus = sum(node.num_cpus for node in nodes), sum(node.num_gpus for node in nodes)
    return f"the cluster has {num_cpus:g} CPUs and {num_gpus:g} GPUs on {len(nodes)} node(s)"
