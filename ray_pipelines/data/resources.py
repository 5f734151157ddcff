"""How many workers, with what, and whether the cluster can hold them.

Ray waits without a word for resources that will never come: an actor that takes both of two CPUs leaves none for the
tasks that read, and the job hangs. So CPUs are planned on purpose (one always stays free for the tasks that read,
preprocess and write), the plan is checked before anything starts, and what cannot work is refused with the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ray_pipelines.config import WorkersConfig
from ray_pipelines.errors import ConfigError, ResourceError
from ray_pipelines.tasks import Task

__all__ = ["Node", "WorkerPlan", "cluster_nodes", "plan_workers"]

TASK_CPUS = 1.0
"""CPUs of the largest Ray task beside the workers: reading, preprocessing or writing one block."""


@dataclass(frozen=True)
class Node:
    """What one node has in all, used or not."""

    num_cpus: float
    num_gpus: float = 0


@dataclass(frozen=True)
class ChunkPlan:
    """Where the chunks of a row run, and in what portions.

    Attributes:
        mode: With one worker, or spread over all of them; `auto` until `data/chunking.py` has seen some rows.
        reason: Why.
        window_chunks: Chunks that a worker takes at a time, of any rows.
        rows_per_task: Rows that one task explodes, or one worker takes; None for as many as a block has.
        num_partitions: Partitions of the shuffle.
        wave_rows: Rows that are shuffled at a time, where there are more; None for all.
    """

    mode: Literal["auto", "in_worker", "groupby"]
    reason: str
    window_chunks: int = 64
    rows_per_task: int | None = None
    num_partitions: int = 2
    wave_rows: int | None = None


@dataclass(frozen=True)
class WorkerPlan:
    """What the workers of one pipeline get.

    Attributes:
        stages: All steps in the worker, or CPU tasks around forward-only workers.
        min_workers: Workers that must run.
        max_workers: Workers that may run.
        num_cpus: CPUs of each.
        num_gpus: GPUs of each.
        num_threads: Torch threads of each.
        chunks: How a task with several forwards per row runs; None for any other.
    """

    stages: Literal["fused", "split"]
    min_workers: int
    max_workers: int
    num_cpus: float
    num_gpus: float
    num_threads: int
    chunks: ChunkPlan | None = None

    def describe(self) -> str:
        """One line for people."""
        number = (
            str(self.max_workers) if self.min_workers == self.max_workers else f"{self.min_workers}-{self.max_workers}"
        )
        gpus = f", {self.num_gpus:g} GPU" if self.num_gpus else ""
        workers = f"{number} x ({self.num_cpus:g} CPU{gpus}, {self.num_threads} threads)"
        if self.chunks is None:
            return f"{workers}, {self.stages} stages"
        if self.chunks.mode == "groupby":
            waves = f" in waves of {self.chunks.wave_rows:,} rows" if self.chunks.wave_rows is not None else ""
            return f"{workers}, chunks by groupby{waves}: {self.chunks.reason}"
        return f"{workers}, {self.stages} stages, chunks {self.chunks.mode}: {self.chunks.reason}"


def cluster_nodes() -> list[Node]:
    """The living nodes of the connected cluster."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(node.get("CPU", 0), node.get("GPU", 0)) for node in nodes]


def plan_workers(workers: WorkersConfig, task: Task, nodes: Sequence[Node]) -> WorkerPlan:
    """What each worker gets on these nodes.

    Args:
        workers: What the user asked for; everything unset is chosen here.
        task: The task; its modalities decide whether `auto` splits the stages.
        nodes: The cluster.

    Raises:
        ConfigError: The task cannot be split into stages.
        ResourceError: The cluster cannot hold the workers and one more task; the message has the arithmetic.

    >>> from ray_pipelines import tasks
    >>> plan_workers(WorkersConfig(), tasks.get("fill-mask"), [Node(num_cpus=2)]).describe()
    '1 x (1 CPU, 2 threads), fused stages'
    """
    cpu_nodes = [node for node in nodes if node.num_cpus > 0]
    total_cpus = sum(node.num_cpus for node in nodes)
    total_gpus = sum(node.num_gpus for node in nodes)
    if workers.concurrency is not None:
        least, most = workers.concurrency if isinstance(workers.concurrency, tuple) else (workers.concurrency,) * 2
    elif workers.num_gpus:
        least = most = max(1, int(total_gpus / workers.num_gpus))
    else:
        least = most = max(1, len(cpu_nodes))
    num_cpus = workers.num_cpus if workers.num_cpus is not None else _worker_cpus(workers, least, cpu_nodes)
    plan = WorkerPlan(
        stages=_stages(workers, task),
        min_workers=least,
        max_workers=most,
        num_cpus=num_cpus,
        num_gpus=workers.num_gpus,
        num_threads=workers.num_threads or _worker_threads(workers, num_cpus, least, cpu_nodes),
        chunks=_chunk_plan(workers, task, most),
    )
    if not workers.autoscaling:
        _check(plan, nodes, total_cpus, total_gpus)
    return plan


def _chunk_plan(workers: WorkersConfig, task: Task, num_workers: int) -> ChunkPlan | None:
    if workers.chunking == "groupby":
        return ChunkPlan("groupby", "as workers.chunking says")
    if not task.chunked:
        return None
    if workers.chunking == "auto" and num_workers > 1:
        return ChunkPlan("auto", "the first rows will tell")
    return ChunkPlan("in_worker", "as workers.chunking says" if workers.chunking != "auto" else "there is one worker")


def _stages(workers: WorkersConfig, task: Task) -> Literal["fused", "split"]:
    if workers.stages == "split" and not task.splittable:
        raise ConfigError(f"workers.stages: expected fused; got split. {task.name} cannot be split into stages.")
    if workers.stages != "auto":
        return workers.stages
    is_heavy = bool(task.modalities & {"image", "audio", "video"})
    return "split" if workers.num_gpus and is_heavy and task.splittable else "fused"


def _worker_cpus(workers: WorkersConfig, least: int, nodes: Sequence[Node]) -> float:
    """CPUs of a worker: 1 beside a GPU; else an even share of the cluster less what one task needs."""
    if workers.num_gpus:
        return 1
    if not nodes:
        return 0
    if least <= len(nodes):
        return max(0, int(min(node.num_cpus for node in nodes) - TASK_CPUS))
    share = (sum(node.num_cpus for node in nodes) - TASK_CPUS) / least
    return int(share) if share >= 1 else int(share * 100) / 100


def _worker_threads(workers: WorkersConfig, num_cpus: float, least: int, nodes: Sequence[Node]) -> int:
    """Threads of a worker: the CPUs that it was given, or, where nothing was said, its part of the node."""
    if workers.num_cpus is not None or workers.num_gpus or not nodes:
        return max(1, int(num_cpus))
    workers_per_node = max(1, round(least / len(nodes)))
    return max(1, int(min(node.num_cpus for node in nodes) / workers_per_node))


def _check(plan: WorkerPlan, nodes: Sequence[Node], total_cpus: float, total_gpus: float) -> None:
    worker = f"{plan.num_cpus:g} CPUs" + (f" and {plan.num_gpus:g} GPUs" if plan.num_gpus else "")
    has = f"the cluster has {total_cpus:g} CPUs and {total_gpus:g} GPUs on {len(nodes)} node(s)"
    fitting = sum(_fits_on(node, plan) for node in nodes)
    if plan.min_workers * plan.num_gpus > total_gpus or not any(_fits_on(node, plan) for node in nodes):
        raise ResourceError(
            f"workers: expected room for {plan.min_workers} worker(s) of {worker} each; {has}. Lower workers.num_gpus, "
            "workers.num_cpus or workers.concurrency, add nodes, or set workers.autoscaling if the cluster grows on "
            "demand."
        )
    needed = plan.min_workers * plan.num_cpus + TASK_CPUS
    if needed > total_cpus:
        raise ResourceError(
            f"workers: expected {plan.min_workers} x {plan.num_cpus:g} CPUs for workers + {TASK_CPUS:g} to read "
            f"and write = {needed:g} CPUs; {has}, and the job would hang. Lower workers.num_cpus (workers.num_threads "
            "sets threads apart) or workers.concurrency."
        )
    if fitting < plan.min_workers:
        raise ResourceError(
            f"workers: expected room for {plan.min_workers} worker(s) of {worker} each; only {fitting} fit, as {has}. "
            "A worker cannot be spread over nodes."
        )


def _fits_on(node: Node, plan: WorkerPlan) -> int:
    """How many workers fit on a node."""
    by_cpus = node.num_cpus / plan.num_cpus if plan.num_cpus else float(plan.min_workers)
    by_gpus = node.num_gpus / plan.num_gpus if plan.num_gpus else float(plan.min_workers)
    return int(min(by_cpus, by_gpus) + 1e-9)
