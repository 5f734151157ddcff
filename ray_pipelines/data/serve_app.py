"""Applications on Ray Serve, as a job sees them: whether one will do, and calls of its replicas by handle."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import ray.exceptions
from ray import serve
from ray.serve import exceptions as serve_exceptions

from ray_pipelines.config import WorkersConfig
from ray_pipelines.data.resources import TASK_CPUS, WorkerPlan
from ray_pipelines.data.serve_client import CALLS_PER_REPLICA, AppState, Lost, Unavailable
from ray_pipelines.engine.exchange import RowAnswers, RowBatch
from ray_pipelines.engine.identity import differences
from ray_pipelines.errors import ConfigError, JobError, RayPipelinesError, ResourceError
from ray_pipelines.nodes import Node
from ray_pipelines.validation import did_you_mean

__all__ = ["ServeApplication", "check_identity", "plan_replicas"]

T = TypeVar("T")
CLIENT_CPUS = 0.25
LEAST_CALLS, MAX_CALLS = 4, 64
STATE_S, DESCRIBE_S = 30.0, 60.0
UNKNOWN = AppState("UNKNOWN", 0)
ENDING = ("DELETING", "DEPLOY_FAILED")
"""Other applications than RUNNING ones will do, if a replica runs: one of several may just have died."""

LOST = (
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.ObjectLostError,
)
UNAVAILABLE = (
    serve_exceptions.RayServeException,
    ray.exceptions.TaskCancelledError,
    ray.exceptions.RpcError,
    ray.exceptions.RaySystemError,
)


class ServeApplication:
    """An application of `ray_pipelines.serve` on this cluster's Ray Serve.

    Args:
        name: Its name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._run_rows: Any = None

    async def state(self) -> AppState:
        """How it is; unknown while Serve's controller does not answer."""
        try:
            return await asyncio.wait_for(asyncio.to_thread(state_of, self.name), STATE_S)
        except TimeoutError:
            return UNKNOWN

    async def call(self, batch: RowBatch) -> RowAnswers:
        """The answers of some replica.

        Raises:
            Lost: The replica has died.
            Unavailable: The call must be made again.
            JobError: The replica fails in a way that is not a row's.
        """
        response = None
        try:
            if self._run_rows is None:
                self._run_rows = serve.get_app_handle(self.name).run_rows
            response = self._run_rows.remote(batch)
            answers: RowAnswers = await response
            return answers
        except asyncio.CancelledError:
            if response is not None:
                with contextlib.suppress(Exception):
                    response.cancel()
            raise
        except LOST as error:
            self._run_rows = None
            raise Lost(type(error).__name__) from None
        except ray.exceptions.RayTaskError as error:
            raise _cause(error, self.name) from None
        except UNAVAILABLE as error:
            self._run_rows = None
            raise Unavailable(type(error).__name__) from None


def _cause(error: BaseException, name: str) -> Exception:
    """What has failed in a replica, as it is to be raised here."""
    seen: list[BaseException] = []
    # What Ray raises is an instance of its cause's class too, with a traceback for a message.
    current: BaseException | None = getattr(error, "cause", None) or error
    while current is not None and current not in seen:
        if isinstance(current, RayPipelinesError):
            return current
        if isinstance(current, LOST):
            return Lost(type(current).__name__)
        if isinstance(current, UNAVAILABLE):
            return Unavailable(type(current).__name__)
        seen.append(current)
        current = getattr(current, "cause", None) or current.__cause__
    last = str(error).strip().splitlines()[-1:]
    return JobError(f"workers.serve: a replica of {name} has failed: {''.join(last)}")


def state_of(name: str) -> AppState:
    """How the application called `name` is. One that is being deleted, and whose replicas have all ended, is gone."""
    try:
        application = serve.status().applications.get(name)
    except (ray.exceptions.RayError, serve_exceptions.RayServeException, RuntimeError):
        return UNKNOWN
    if application is None:
        return AppState("NOT_FOUND", 0)
    num_running = min((each.replica_states.get("RUNNING", 0) for each in application.deployments.values()), default=0)
    status = str(getattr(application.status, "value", application.status))
    return AppState("NOT_FOUND" if status == "DELETING" and not num_running else status, num_running)


def plan_replicas(workers: WorkersConfig, task_name: str, nodes: Sequence[Node]) -> WorkerPlan:
    """The plan of a job whose rows go to an application, which must run, and has the task.

    Raises:
        ConfigError: There is no such application, it does not run, or it has another task.
        ResourceError: The replicas leave the job no CPU to read and write with.
    """
    name = workers.serve
    assert name is not None
    state = state_of(name)
    if state.status == "NOT_FOUND":
        known = [each for each in serve.status().applications if each != name]
        hint = did_you_mean(name, known)
        running = f" There is: {', '.join(known)}." if known else " Serve runs none on this cluster (RAY_ADDRESS?)."
        raise ConfigError(f"workers.serve: there is no application {name!r}.{hint}{running}")
    if not state.num_running or state.status in ENDING:
        raise ConfigError(
            f"workers.serve: expected {name} to be RUNNING; it is {state.status} ({state.num_running} replicas run). "
            "`serve status` says why."
        )
    described = describe(name)
    if described["task"] != task_name:
        raise ConfigError(f"workers.serve: {name} serves {described['task']}; the job asks for {task_name}.")
    taken = state.num_running * described["num_cpus"]
    left = sum(node.num_cpus for node in nodes)
    if left < CLIENT_CPUS + TASK_CPUS and not workers.autoscaling:
        raise ResourceError(
            f"workers.serve: expected {CLIENT_CPUS:g} CPUs to send rows + {TASK_CPUS:g} to read and write beside the "
            f"{taken:g} CPUs of {state.num_running} replica(s) of {name}; the cluster has {left:g} CPUs left, and the "
            "job would hang. Add nodes, or lower workers.num_cpus of the application."
        )
    most = max(state.num_running, described["max_replicas"])
    return WorkerPlan(
        stages="fused",
        min_workers=1,
        max_workers=1,
        num_cpus=CLIENT_CPUS,
        num_gpus=0,
        num_threads=1,
        application=name,
        num_replicas=state.num_running,
        num_calls=min(MAX_CALLS, max(LEAST_CALLS, CALLS_PER_REPLICA * most)),
    )


def check_identity(name: str, identity: Mapping[str, Any]) -> None:
    """Raises unless an application has just this model.

    Raises:
        ConfigError: It has another, or other settings of it; the message names the differences.
    """
    different = differences(identity, describe(name)["identity"], ("is", f"{name} has"))
    if different:
        raise ConfigError(
            f"workers.serve: expected {name} to have the job's model; {'; '.join(different)}. Deploy the same "
            "specification, or change the job."
        )


def describe(name: str) -> dict[str, Any]:
    """What a replica of an application says of itself.

    Raises:
        ConfigError: It is no application of this package.
        JobError: No replica answers.
    """

    async def ask() -> Any:
        return await asyncio.wait_for(_ask(serve.get_app_handle(name).describe), DESCRIBE_S)

    try:
        described: dict[str, Any] = _in_thread(ask)
    except TimeoutError:
        raise JobError(f"workers.serve: no replica of {name} has answered within {DESCRIBE_S:g} s.") from None
    except (ray.exceptions.RayError, serve_exceptions.RayServeException) as error:
        if "describe" in str(error) or isinstance(error, ray.exceptions.RayTaskError):
            raise ConfigError(f"workers.serve: {name} is no application of ray_pipelines.serve.") from None
        raise JobError(f"workers.serve: {name} does not answer: {type(error).__name__}.") from None
    if not isinstance(described, dict) or "identity" not in described:
        raise ConfigError(f"workers.serve: {name} is no application of ray_pipelines.serve.")
    return described


async def _ask(method: Any) -> Any:
    return await method.remote()


def _in_thread(make: Callable[[], Awaitable[T]]) -> T:
    """The result of a coroutine, in a loop of its own: this thread may have one that runs, as in a notebook."""

    async def run() -> T:
        return await make()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(run())).result()
