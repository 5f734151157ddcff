"""Endpoints in a process of their own: `python -m tests.integration.serve.endpoints PORT FOLDER [--serve] TASK=MODEL …`

Each answers under `/TASK`, as below a Serve route prefix. The process stands in for replicas, without Ray, until it is
killed; with `--serve` it starts a Ray cluster and one replica that holds them all, behind Serve's proxy, until its
standard input ends. Which proxy that is, the environment says.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from starlette.responses import JSONResponse, Response

from ray_pipelines import tasks
from ray_pipelines.engine.hub import resolve_model
from ray_pipelines.engine.load import load_runner
from ray_pipelines.engine.tuning import cache_folder
from ray_pipelines.serve.config import validate_serving
from ray_pipelines.serve.endpoint import Endpoint
from ray_pipelines.serve.http import build_app
from tests.tiny_models import build_model

INSTALLED = (sys.prefix, sys.base_prefix, str(Path(__file__).parents[3]), "/proc/", "/sys/", "/dev/")
OWN = str(cache_folder() / "budgets")
"""Where the executor keeps the budget of batches that it has found, under a name that no request has a part in."""


def endpoint(task_name: str, model: str, folder: Path, **settings: object) -> Endpoint:
    """An endpoint of a tiny model, on the CPU."""
    values = {"task": task_name, "model": str(build_model(model, folder / model)), **settings}
    serving = validate_serving(values)
    task = tasks.get(task_name)
    pinned = resolve_model(task.name, serving.model, {})
    parameters = tasks.validate_parameters(task, serving.parameters)
    runner = load_runner(task, pinned, parameters, serving.batch, serving.media_limits(), device="cpu", offline=True)
    return Endpoint(serving, runner, model)


def slow_app(folder: Path) -> Any:
    """An endpoint whose model takes 20 ms for each token; `GET /slow/_work` says what it does."""
    made = endpoint("text-generation", "llama-chat", folder, serve={"timeout_s": 3, "max_queue_s": 2})
    num_steps = 0

    def take_time(*_: Any) -> None:
        nonlocal num_steps
        num_steps += 1
        time.sleep(0.02)

    made.scheduler.runner.steps.pipe.model.register_forward_hook(take_time)
    app = build_app(made)

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/slow/_work":
            await app(scope, receive, send)
            return
        answer = JSONResponse({"num_steps": num_steps, "is_busy": made.scheduler.is_wedged(0)})
        await answer(scope, receive, send)

    return watched


def all_apps(pairs: Sequence[str], folder: Path) -> Any:
    """One application that hands each request to the endpoint below whose prefix it is.

    `GET /_opened` says which files, connections and programs the process has opened since it was last asked.
    """
    torch.set_num_threads(1)
    whisper = endpoint("automatic-speech-recognition", "whisper", folder)
    apps = {"slow": slow_app(folder), "whisper": build_app(whisper), "_opened": _Watch()}
    for pair in pairs:
        task_name, _, model = pair.partition("=")
        apps[task_name] = build_app(endpoint(task_name, model, folder))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        task_name = scope["path"].split("/")[1]
        if task_name not in apps:
            await Response(status_code=404)(scope, receive, send)
            return
        await apps[task_name]({**scope, "root_path": f"/{task_name}"}, receive, send)

    return app


class _Watch:
    """Hears of what the process opens, but for the files of Python itself and its packages, and of this one's cache."""

    EVENTS = (
        "open",
        "socket.connect",
        "socket.getaddrinfo",
        "subprocess.Popen",
        "os.exec",
        "os.system",
        "os.posix_spawn",
    )

    def __init__(self) -> None:
        self.opened: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: Any) -> None:
        if event in self.EVENTS and not str(arguments[0]).startswith((*INSTALLED, OWN)):
            self.opened.append(f"{event} {arguments[0]!r}")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        opened, self.opened = self.opened, []
        await JSONResponse(opened)(scope, receive, send)


def serve_bare(port: int, folder: Path, pairs: Sequence[str]) -> None:
    """Serves without Ray until it is killed."""
    import uvicorn

    uvicorn.run(all_apps(pairs, folder), port=port, log_level="warning", lifespan="off")


def serve_on_ray(port: int, folder: Path, pairs: Sequence[str]) -> None:
    """Serves behind Ray Serve's proxy until the standard input ends."""
    import ray
    from ray import serve

    @serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 1})
    @serve.ingress()
    class Endpoints:
        def __init__(self, pairs: Sequence[str], folder: Path) -> None:
            self.app_of_all = all_apps(pairs, folder)

        def __serve_build_asgi_app__(self) -> Any:
            return self.app_of_all

    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as temporary:
        ray.init(num_cpus=2, object_store_memory=100 << 20, include_dashboard=False, _temp_dir=temporary,
                 logging_level=logging.ERROR, log_to_driver=False)  # fmt: skip
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(Endpoints.bind(list(pairs), folder))
        print("ready", flush=True)
        sys.stdin.read()
        serve.shutdown()
        ray.shutdown()


def main() -> None:
    """Serves."""
    port, folder, *pairs = sys.argv[1:]
    if pairs[0] == "--serve":
        serve_on_ray(int(port), Path(folder), pairs[1:])
    else:
        serve_bare(int(port), Path(folder), pairs)


if __name__ == "__main__":
    main()
