"""How many workers, with what, and whether the cluster can hold them.

Ray waits without a word for resources that will never come: an actor that takes both of two CPUs leaves none for the
tasks that read, and the job hangs. So CPUs are planned on purpose (one always stays free for the tasks that read,
preprocess and write), the plan is checked before anything starts, and what cannot work is refused with the arithmetic.
What Serve's replicas hold does not count, as they never give it back; for what other jobs hold, a job waits: `room.py`.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ray_pipelines.config import WorkersConfig
from ray_pipelines.errors import ConfigError, ResourceError
from ray_pipelines.nodes import NODE_ID, Node
from ray_pipelines.tasks import Task

__all__ = ["ChunkPlan", "WorkerPlan", "check_fits", "plan_workers"]

logger = logging.getLogger(__name__)

TASK_CPUS = 1.0
"""CPUs of the largest Ray task beside the workers: reading, preprocessing or writing one block."""

ENOUGH_IN_USE = 0.8
"""Share of the CPUs in use, of what smaller workers could use, at which larger (and fewer) workers are taken."""

MEMORY_SHARE = 0.5
PROCESS_BYTES = 1 << 30
COPIES = 2
"""Of a node's memory, what workers may have that nobody has asked for: each a process with PyTorch, and its model once
more while that is loaded or in a wider precision."""

ROWS_PER_WORKER = 64
"""Rows that are worth a worker more: it takes seconds to start."""


@dataclass(frozen=True)
class ChunkPlan:
    """Where the chunks of a row run, and in what portions.

    Attributes:
        mode: With one worker, or spread over all of them; `auto` until `data/chunking.py` has seen some rows.
        reason: Why.
        window_chunks: Chunks that a worker takes at a time, of any rows.
        rows_per_task: Rows that one task explodes; None for as many as a block has.
        num_partitions: Partitions of the shuffle.
        num_imploders: Processes that put rows together again.
        placement: Ray's options for where these run.
        wave_rows: Rows that are shuffled at a time at first, where there are more; None for all.
    """

    mode: Literal["auto", "in_worker", "groupby"]
    reason: str
    window_chunks: int = 64
    rows_per_task: int | None = None
    num_partitions: int = 2
    num_imploders: int = 2
    placement: Mapping[str, Any] = field(default_factory=dict)
    wave_rows: int | None = None

    def with_longer_waves(self) -> ChunkPlan:
        """The plan with twice the rows of a wave, in partitions of the same size."""
        if self.wave_rows is None:
            return self
        return dataclasses.replace(self, wave_rows=2 * self.wave_rows, num_partitions=2 * self.num_partitions)


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
        placement: What else Ray is asked for: `accelerator_type`, `label_selector`, `resources`.
        chunks: How a task with several forwards per row runs; None for any other.
        rows_per_call: Rows that a worker takes at a time where all together are few; None for `batch.rows_per_call`.
        application: The Serve application whose replicas run the rows; the one worker only sends them.
        num_replicas: Its replicas.
        num_calls: Blocks of rows that are sent at a time at most.
        num_models: Models that each worker holds.
        workers_per_node: Workers that share a node's memory, at most.
    """

    stages: Literal["fused", "split"]
    min_workers: int
    max_workers: int
    num_cpus: float
    num_gpus: float
    num_threads: int
    placement: Mapping[str, Any] = field(default_factory=dict)
    chunks: ChunkPlan | None = None
    rows_per_call: int | None = None
    application: str | None = None
    num_replicas: int = 0
    num_calls: int = 1
    num_models: int = 1
    workers_per_node: int = 1

    @property
    def ray_options(self) -> dict[str, Any]:
        """What Ray is asked for, for each worker."""
        return {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus, **self.placement}

    @property
    def tasks_in_flight(self) -> int:
        """Blocks that a worker has or waits for: the first to start takes as many, and leaves the others theirs."""
        return 4 if self.num_gpus else 2

    def room_on(self, node: Node) -> float:
        """How many workers fit on a node."""
        return node.room(self.num_cpus, self.num_gpus, self.placement)

    def shared_evenly(self, num_rows: int | None, most: int) -> WorkerPlan:
        """The plan for so few rows that in portions of `most`, some workers would get none, or twice what others get.

        >>> plan = WorkerPlan("fused", 4, 4, num_cpus=1, num_gpus=0, num_threads=1)
        >>> [plan.shared_evenly(num_rows, 512).rows_per_call for num_rows in (None, 10_000, 2_000, 3)]
        [None, None, 250, 1]
        """
        num_portions = self.tasks_in_flight * self.max_workers
        if num_rows is None or self.max_workers == 1 or num_rows >= num_portions * most:
            return self
        return dataclasses.replace(self, rows_per_call=max(1, math.ceil(num_rows / num_portions)))

    def describe(self) -> str:
        """One line for people."""
        if self.application is not None:
            return f"serve://{self.application}, {self.num_replicas} replica(s)"
        number = (
            str(self.max_workers) if self.min_workers == self.max_workers else f"{self.min_workers}-{self.max_workers}"
        )
        kind = self.placement.get("accelerator_type")
        gpus = f", {self.num_gpus:g} {f'{kind} ' if kind else ''}GPU" if self.num_gpus else ""
        models = f", {self.num_models} models" if self.num_models > 1 else ""
        threads = f"{self.num_threads} thread{'s' if self.num_threads > 1 else ''}"
        workers = f"{number} x ({self.num_cpus:g} CPU{gpus}, {threads}{models})"
        if self.chunks is None:
            return f"{workers}, {self.stages} stages"
        if self.chunks.mode == "groupby":
            waves = f" in waves of {self.chunks.wave_rows:,} rows and more" if self.chunks.wave_rows is not None else ""
            return f"{workers}, chunks by groupby{waves}: {self.chunks.reason}"
        return f"{workers}, {self.stages} stages, chunks {self.chunks.mode}: {self.chunks.reason}"


def plan_workers(
    workers: WorkersConfig,
    task: Task,
    nodes: Sequence[Node],
    model_bytes: int | None = None,
    num_rows: int | None = None,
) -> WorkerPlan:
    """What each worker gets on these nodes.

    Without GPUs, workers of one thread each make the most of a node (`benchmarks/throughput.py`): threads of one
    forward wait for each other whenever something else takes a core. So there are as many as cores, as far as memory
    goes.

    Args:
        workers: What the user asked for; everything unset is chosen here.
        task: The task; its modalities decide whether `auto` splits the stages.
        nodes: The cluster.
        model_bytes: Size of the weights that a worker holds; None where it is unknown, and a node has one worker then.
        num_rows: Rows of the dataset; None where it is unknown.

    Raises:
        ConfigError: The task cannot be split into stages.
        ResourceError: The cluster cannot hold the workers and one more task; the message has the arithmetic.

    >>> from ray_pipelines import tasks
    >>> plan_workers(WorkersConfig(), tasks.get("fill-mask"), [Node(num_cpus=2)]).describe()
    '1 x (1 CPU, 2 threads), fused stages'
    >>> plan_workers(WorkersConfig(), tasks.get("fill-mask"), [Node(8)], model_bytes=1 << 30).describe()
    '8 x (0.87 CPU, 1 thread), fused stages'
    """
    placement = workers.placement
    suitable = [node for node in nodes if node.suits(placement)]
    is_number_unset = workers.concurrency is None
    if model_bytes is not None and is_number_unset and not workers.num_gpus and workers.num_cpus is None:
        number = _one_per_core(suitable, workers.num_threads or 1, model_bytes, num_rows)
        if number > 1:
            workers = workers.model_copy(update={"concurrency": number})
    least, most, num_cpus = _size(workers, suitable, nodes)
    plan = WorkerPlan(
        stages=_stages(workers, task),
        min_workers=least,
        max_workers=most,
        num_cpus=num_cpus,
        num_gpus=workers.num_gpus,
        num_threads=workers.num_threads or _threads(workers, num_cpus, least, suitable),
        placement=placement,
        chunks=_chunk_plan(workers, task, most),
    )
    plan = dataclasses.replace(plan, workers_per_node=max([1, *(int(min(most, plan.room_on(n))) for n in suitable)]))
    if not workers.autoscaling:
        check_fits(plan, nodes)
    elif is_number_unset:
        logger.warning(
            "workers.autoscaling: the cluster grows to %d worker(s), as many as it has room for now. Set "
            "workers.concurrency to [least, most].",
            least,
        )
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


def _one_per_core(nodes: Sequence[Node], num_threads: int, model_bytes: int, num_rows: int | None) -> int:
    """Workers of so many threads each, as many as cores and memory allow and the rows are worth."""
    per_worker = PROCESS_BYTES + COPIES * model_bytes
    number = 0
    for node in nodes:
        by_memory = MEMORY_SHARE * node.resources.get("memory", math.inf) / per_worker
        number += int(min(node.num_cpus // num_threads, max(1, by_memory)))
    return number if num_rows is None else min(number, math.ceil(num_rows / ROWS_PER_WORKER))


def _size(workers: WorkersConfig, suitable: Sequence[Node], nodes: Sequence[Node]) -> tuple[int, int, float]:
    """Least and most workers, and CPUs of each."""
    asked = workers.concurrency
    least, most = asked if isinstance(asked, tuple) else (asked, asked)
    if workers.num_gpus:
        rooms = [int(node.room(0, workers.num_gpus, workers.placement)) for node in suitable]
        number = least or max(1, sum(rooms))
        num_cpus = _cpus_beside_gpus(number, workers, suitable, nodes)
    elif workers.autoscaling and not any(node.num_cpus > 0 for node in suitable):
        # The nodes that workers will have are not there yet.
        number, num_cpus = least or 1, 1.0
    else:
        number, num_cpus = _even_share(least, [node for node in suitable if node.num_cpus > 0])
    if workers.num_cpus is not None:
        num_cpus = workers.num_cpus
        if not workers.num_gpus:
            number = least or max(1, sum(node.room(num_cpus, 0, workers.placement) >= 1 for node in suitable))
    return number, most or number, num_cpus


def _cpus_beside_gpus(
    num_workers: int, workers: WorkersConfig, suitable: Sequence[Node], nodes: Sequence[Node]
) -> float:
    """CPUs of a worker with a GPU: 1, or less where a node has more room for workers than CPUs."""
    placement = workers.placement
    rooms = [(node.num_cpus, node.room(0, workers.num_gpus, placement)) for node in suitable]
    num_cpus = _rounded(min([1.0, *(cpus / room for cpus, room in rooms if room >= 1)]))
    if _can_starve(num_workers, num_cpus, workers.num_gpus, placement, nodes):
        spare = [max(0.0, cpus - TASK_CPUS) / room for cpus, room in rooms if room >= 1]
        num_cpus = _rounded(min([1.0, *spare]))
    return num_cpus


def _even_share(num_workers: int | None, nodes: Sequence[Node]) -> tuple[int, float]:
    """Workers and CPUs of each, so that each node has one CPU left for the tasks that read.

    All workers are alike. Unset, their number is one per node; where some nodes are much larger than others, workers
    have the size of a smaller node, and a large node holds several.

    >>> _even_share(None, [Node(16), Node(8)]), _even_share(2, [Node(96), Node(2)])
    ((3, 7), (2, 47))
    """
    spare = [int(max(0.0, node.num_cpus - TASK_CPUS)) for node in nodes]
    if num_workers is None:
        in_use = {size: sum(cpus // size * size for cpus in spare) for size in spare if size}
        if in_use:
            size = max(size for size, cpus in in_use.items() if cpus >= ENOUGH_IN_USE * max(in_use.values()))
            return sum(cpus // size for cpus in spare), size
        # Nodes of one CPU: all but one hold a worker.
        whole = sum(node.num_cpus >= 1 for node in nodes)
        return (whole - 1, 1) if whole > 1 else (1, 0)
    for size in range(max(spare, default=0), 0, -1):
        if sum(cpus // size for cpus in spare) >= num_workers:
            return num_workers, size
    return num_workers, _rounded(sum(spare) / num_workers)


def _rounded(num_cpus: float) -> float:
    return math.floor(num_cpus * 100 + 1e-6) / 100


def _threads(workers: WorkersConfig, num_cpus: float, num_workers: int, nodes: Sequence[Node]) -> int:
    """Threads of a worker: the CPUs that it was given, or, where nothing was said, its part of a node."""
    if workers.num_cpus is not None or workers.num_gpus or not nodes:
        return max(1, int(num_cpus))
    if num_cpus < 1:
        return max(1, int(sum(node.num_cpus for node in nodes) / num_workers))
    shares = []
    for node in nodes:
        on_node = min(num_workers, int((node.num_cpus - TASK_CPUS) / num_cpus + 1e-9))
        shares += [int(node.num_cpus / on_node)] if on_node >= 1 else []
    return max(1, min(shares, default=int(num_cpus)))


def check_fits(plan: WorkerPlan, nodes: Sequence[Node]) -> None:
    """Raises if Ray would wait for ever.

    Raises:
        ResourceError: It would.
    """
    total_cpus, total_gpus = sum(node.num_cpus for node in nodes), sum(node.num_gpus for node in nodes)
    worker = f"{plan.num_cpus:g} CPUs" + (f" and {plan.num_gpus:g} GPUs" if plan.num_gpus else "")
    has = f"the cluster has {total_cpus:g} CPUs and {total_gpus:g} GPUs on {len(nodes)} node(s){_beside(nodes)}"
    if plan.placement and not any(node.suits(plan.placement) for node in nodes):
        wanted = ", ".join(f"{name}: {value}" for name, value in plan.placement.items())
        labels = sorted({f"{key}={value}" for node in nodes for key, value in node.labels.items() if key != NODE_ID})
        names = sorted({name for node in nodes for name in node.resources if not name.startswith(("node:", "CPU"))})
        raise ResourceError(
            f"workers: expected a node with {wanted}; {has}, and none is so. Their labels are "
            f"{', '.join(labels) or '(none)'}, their resources {', '.join(names) or '(none)'}. Set "
            "workers.autoscaling if the cluster grows on demand."
        )
    fitting = sum(plan.room_on(node) for node in nodes)
    if plan.min_workers * plan.num_gpus > total_gpus or not fitting:
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
            f"workers: expected room for {plan.min_workers} worker(s) of {worker} each; only {fitting:g} fit, as "
            f"{has}. A worker cannot be spread over nodes."
        )
    if _can_starve(plan.min_workers, plan.num_cpus, plan.num_gpus, plan.placement, nodes):
        raise ResourceError(
            f"workers: expected a node with {TASK_CPUS:g} CPU left to read and write, wherever Ray puts "
            f"{plan.min_workers} worker(s) of {worker} each; {has}, which they can leave with less on each, and the "
            "job would hang. Lower workers.num_cpus or workers.concurrency."
        )


def _beside(nodes: Sequence[Node]) -> str:
    """What others hold, for people."""
    held = {name: sum(node.held.get(name, 0) for node in nodes) for name in ("CPU", "GPU")}
    amounts = " and ".join(f"{amount:g} {name}s" for name, amount in held.items() if amount)
    return f", beside {amounts} that others hold (Serve's replicas, other jobs)" if amounts else ""


def _can_starve(
    num_workers: int, num_cpus: float, num_gpus: float, placement: Mapping[str, Any], nodes: Sequence[Node]
) -> bool:
    """Whether workers can come to stand so that no node has room for a task."""
    filling = 0
    for node in nodes:
        if node.num_cpus < TASK_CPUS:
            continue
        if not num_cpus:
            return False
        on_node = int((node.num_cpus - TASK_CPUS) / num_cpus + 1e-9) + 1
        if on_node > node.room(num_cpus, num_gpus, placement):
            return False
        filling += on_node
    return filling <= num_workers
