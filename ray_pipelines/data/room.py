"""Room for a job's workers beside those of other jobs, which one job at a time looks for.

Two jobs whose workers take all CPUs between them leave none to read with, and would wait for each other for ever. So a
job waits, saying so, until others leave room for its workers and for the tasks beside them. Room that two jobs see in
the same second would be taken twice: from its look until its workers have nodes, a job has the turn. That is an actor
of which there can be one by its name, and Ray ends it with its driver, however that ends.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from ray_pipelines.config import WorkersConfig
from ray_pipelines.data.resources import WorkerPlan, check_fits
from ray_pipelines.errors import ResourceError
from ray_pipelines.nodes import actors_of_this_job, cluster_nodes

__all__ = ["room_for"]

logger = logging.getLogger(__name__)

LOOK_S, SAY_WAITING_S = 1.0, 60.0
TURN_S, NOTICE_S = 60.0, 0.25
TURN, NAMESPACE = "the turn to start workers", "ray_pipelines"


@contextmanager
def room_for(plan: WorkerPlan, workers: WorkersConfig) -> Iterator[None]:
    """Waits until there is room for workers that are started within the block.

    Other jobs look for room once these workers have nodes, or the block ends. A job whose workers are replicas of
    Serve, or for which the cluster grows, waits for nobody.

    Args:
        plan: What fits on the cluster when no other job runs.
        workers: What the user asked for.
    """
    import ray

    if plan.application is not None or workers.autoscaling:
        yield
        return
    said = _Said()
    while True:
        turn = _taken(said)
        try:
            check_fits(plan, cluster_nodes(beside_jobs=True))
            break
        except ResourceError as error:
            # Others may need less: they look meanwhile.
            ray.kill(turn)
            said.now_and_then("waiting for other jobs to end: %s", error)
            time.sleep(LOOK_S)
    is_over = threading.Event()
    giving_back = threading.Thread(target=_give_back, args=(turn, plan, actors_of_this_job(), is_over), daemon=True)
    giving_back.start()
    try:
        yield
    finally:
        is_over.set()
        # A cluster that does not answer any more has no turn, and must not keep a job from ending.
        giving_back.join(LOOK_S)


class _Said:
    """Says what is waited for, at once and then from time to time."""

    def __init__(self) -> None:
        self._at_s = -math.inf

    def now_and_then(self, message: str, *values: object) -> None:
        if time.monotonic() - self._at_s > SAY_WAITING_S:
            logger.warning(message, *values)
            self._at_s = time.monotonic()


def _taken(said: _Said) -> Any:
    """The turn, once no other job has it."""
    import ray

    class Turn:
        """Does nothing but exist. Not of the module, so that its process need not import this package."""

    start_s = time.monotonic()
    while True:
        try:
            return ray.remote(Turn).options(name=TURN, namespace=NAMESPACE, num_cpus=0).remote()
        except ValueError:
            if time.monotonic() - start_s > TURN_S:
                said.now_and_then("waiting for another job to start its workers")
        time.sleep(LOOK_S)


def _give_back(turn: Any, plan: WorkerPlan, before: Mapping[bytes, Any], is_over: threading.Event) -> None:
    """Ends the turn when the workers of the plan have nodes, after `TURN_S`, or when the job is over."""
    import ray

    end_s = time.monotonic() + TURN_S
    # Of a cluster that is gone there is no turn to give back, and the job itself says so.
    with suppress(Exception):
        while time.monotonic() < end_s and not is_over.wait(NOTICE_S):
            new = (asked for actor, asked in actors_of_this_job().items() if actor not in before)
            if sum(asked.get("CPU", 0.0) >= plan.num_cpus for asked in new) >= plan.min_workers:
                break
        ray.kill(turn)
