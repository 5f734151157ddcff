"""The Ray Serve application: one deployment, whose replicas hold the pipeline and answer HTTP themselves.

    serve run ray_pipelines.serve:app task=text-classification model=org/model
    serve deploy config.yaml                 # import_path: ray_pipelines.serve:app, args: {task: …, model: …}
    start(serving)                           # from Python: starting.py

The model is pinned to a commit once, by whoever builds the application, so that all replicas hold the same weights; the
keys that open it are those in the builder's environment, or else in that of the replica (`security.py`).
A replica also takes blocks of rows from batch jobs (`run_rows`), which share the device with requests; see
`scheduler.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.schema import LoggingConfig

from ray_pipelines import tasks
from ray_pipelines.engine.exchange import RowAnswers, RowBatch
from ray_pipelines.engine.hub import PinnedModel, looks_like_path, resolve_model
from ray_pipelines.engine.identity import model_identity
from ray_pipelines.engine.process import loading_process
from ray_pipelines.errors import JobError
from ray_pipelines.serve.autoscaling import OnlineLoad
from ray_pipelines.serve.config import ServeConfig, Serving, read_serving, validate_serving
from ray_pipelines.serve.security import Guard

__all__ = ["PipelineReplica", "app", "bind", "model_id"]

DEPLOYMENT = "pipeline"
MAX_ONGOING_REQUESTS = 4096
"""Admission is the scheduler's, by the work that waits; Serve's own limit only bounds open connections."""
WEDGED_AFTER_S = 600.0
GRACEFUL_SHUTDOWN_S = 30.0


@serve.ingress()
class PipelineReplica:
    """One copy of the pipeline on its device, for requests and for rows of batch jobs.

    Args:
        serving: The specification.
        pinned: The model, pinned.
        guard: Keys of whoever has built the application.
    """

    def __init__(self, serving: Serving, pinned: PinnedModel, guard: Guard) -> None:
        self.guard = guard.in_replica(open_to_all=serving.serve.open_to_all)
        with loading_process():
            self._load(serving, pinned)

    def _load(self, serving: Serving, pinned: PinnedModel) -> None:
        import torch

        from ray_pipelines.engine.load import load_runner
        from ray_pipelines.serve.endpoint import Endpoint
        from ray_pipelines.serve.metrics import Meter

        workers = serving.workers
        torch.set_num_threads(workers.num_threads or max(1, int(workers.num_cpus or os.cpu_count() or 1)))
        task = tasks.get(serving.task)
        # Parameters come with each request and each job: those of one must not show in the other.
        parameters = tasks.validate_parameters(task, {})
        device = serving.model.device or ("cuda:0" if workers.num_gpus else "cpu")
        limits, optimize = serving.media_limits(), serving.optimize
        loading = {"device": device, "offline": True}
        runner = load_runner(task, pinned, parameters, serving.batch, limits, serving.seed, optimize, **loading)
        identity = model_identity(pinned, serving.optimize)
        self.endpoint = Endpoint(serving, runner, model_id(serving), identity)
        self.meter = Meter(self.endpoint.scheduler, task.name, model_id(serving))

    def __serve_build_asgi_app__(self) -> Any:
        """The routes; Serve asks for them once the replica is loaded."""
        from ray_pipelines.serve.http import build_app

        return build_app(self.endpoint, self.guard, self.meter.request)

    async def run_rows(self, batch: RowBatch) -> RowAnswers:
        """Results of rows of a batch job; those that there was no time for are handed back.

        Raises:
            ConfigError: The rows are meant for another task or model.
        """
        return await self.endpoint.run_rows(batch)

    def describe(self) -> dict[str, Any]:
        """What the endpoint is and has done, for those who may call it by handle."""
        scheduler = self.endpoint.scheduler
        waiting = {"online": scheduler.queue_depth("online"), "batch": scheduler.queue_depth("batch")}
        return {
            **self.endpoint.info(),
            "identity": self.endpoint.identity,
            "num_cpus": self.endpoint.serving.num_cpus,
            "max_replicas": self.endpoint.serving.serve.bounds[1],
            "stats": vars(scheduler.stats),
            "waiting": waiting,
            "pid": os.getpid(),
        }

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What autoscaling looks at (`autoscaling.py`): requests at work, and rows of batch jobs that wait."""
        return {"online": float(self.endpoint.scheduler.num_waiting), "batch": float(self.endpoint.blocks.num_rows)}

    def check_health(self) -> None:
        """Raises if one step has not come back for a long time, so that Serve starts another replica."""
        self.meter.publish()
        limit_s = min(WEDGED_AFTER_S, self.endpoint.serving.workers.timeout_s or WEDGED_AFTER_S)
        if self.endpoint.scheduler.is_wedged(limit_s):
            raise JobError(f"a step has not come back for {limit_s:g} seconds.")

    async def __del__(self) -> None:
        """Lets the slice that runs end; rows that wait go back to their jobs."""
        if hasattr(self, "endpoint"):
            self.endpoint.scheduler.is_draining = True
            self.endpoint.close()


def model_id(serving: Serving) -> str:
    """What clients are told of the model: its id on the hub, or the name of its folder without the path to it."""
    name = serving.model.name or f"default-of-{serving.task}"
    return Path(name).name if looks_like_path(name) or Path(name).is_dir() else name


def app(args: dict[str, Any]) -> Application:
    """The application that `serve run` and Serve's configuration files build.

    Args:
        args: Settings of an endpoint, with dots for nested ones: `task`, `model`, `model.dtype`, `serve.replicas`, …;
            or `job`, a file with them.

    Raises:
        ConfigError: One line per problem.
        ModelLoadError: The model's name cannot be resolved.
    """
    settings = {name: value for name, value in args.items() if name != "job"}
    if "job" in args:
        overrides = [f"{name}={value}" for name, value in settings.items()]
        return bind(read_serving(str(args["job"]), overrides))
    return bind(validate_serving(_nested(settings)))


def bind(serving: Serving) -> Application:
    """The application for `serve.run`, with the model pinned and the keys of this environment.

    Raises:
        ConfigError: The model is no folder, or a file of keys cannot be read.
        ModelLoadError: The model's name cannot be resolved.
    """
    task = tasks.get(serving.task)
    pinned = resolve_model(task.name, serving.model, {})
    options = serving.serve
    workers = serving.workers
    scaling: dict[str, Any] = {"num_replicas": options.replicas}
    if isinstance(options.replicas, tuple):
        scaling = {"autoscaling_config": _autoscaling(options)}
    deployment = serve.deployment(
        PipelineReplica,
        name=DEPLOYMENT,
        ray_actor_options={
            "num_cpus": serving.num_cpus,
            "num_gpus": workers.num_gpus,
            **workers.placement,
        },
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        graceful_shutdown_timeout_s=GRACEFUL_SHUTDOWN_S,
        health_check_period_s=10,
        logging_config=LoggingConfig(enable_access_log=False),
        **scaling,
    )
    return deployment.bind(serving, pinned, Guard.from_environment())


def _autoscaling(options: ServeConfig) -> AutoscalingConfig:
    """Replicas by what they report, which is looked at often enough for the shorter of the delays."""
    least, most = options.bounds
    policy = AutoscalingPolicy(
        policy_function=OnlineLoad,
        policy_kwargs={"requests_per_replica": options.requests_per_replica, "scale_on_batch": options.scale_on_batch},
    )
    delay_s = min(options.upscale_delay_s, options.downscale_delay_s)
    return AutoscalingConfig(
        min_replicas=least,
        max_replicas=most,
        policy=policy,
        upscale_delay_s=options.upscale_delay_s,
        downscale_delay_s=options.downscale_delay_s,
        look_back_period_s=min(30.0, delay_s),
        metrics_interval_s=min(10.0, delay_s / 2),
    )


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with dotted names as nested mappings, texts read as YAML as `--set` reads them.

    >>> _nested({"task": "fill-mask", "model.dtype": "float16", "serve.replicas": "2"})
    {'task': 'fill-mask', 'model': {'dtype': 'float16'}, 'serve': {'replicas': 2}}
    """
    import yaml

    nested: dict[str, Any] = {}
    for name, value in settings.items():
        *parents, last = name.split(".")
        place = nested
        for parent in parents:
            inner = place.get(parent, {})
            place[parent] = inner = {"name": inner} if isinstance(inner, str) and parent == "model" else inner
            place = inner
        plain = yaml.safe_load(value) if isinstance(value, str) else value
        if last == "model" and isinstance(place.get(last), dict) and isinstance(plain, str):
            place[last]["name"] = plain
        else:
            place[last] = plain
    return nested
