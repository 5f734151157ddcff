"""Endpoints in a process of their own: `python -m tests.integration.serve.endpoints PORT FOLDER task=model …`.

Each answers under `/TASK`, as below a Serve route prefix; the process stands in for replicas, without Ray.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import uvicorn

from ray_pipelines import tasks
from ray_pipelines.engine.hub import resolve_model
from ray_pipelines.engine.load import load_runner
from ray_pipelines.serve.config import validate_serving
from ray_pipelines.serve.endpoint import Endpoint
from ray_pipelines.serve.http import build_app
from tests.tiny_models import build_model


def endpoint(task_name: str, model: str, folder: Path, **settings: object) -> Endpoint:
    """An endpoint of a tiny model, on the CPU."""
    values = {"task": task_name, "model": str(build_model(model, folder / model)), **settings}
    serving = validate_serving(values)
    task = tasks.get(task_name)
    pinned = resolve_model(task.name, serving.model, {})
    parameters = tasks.validate_parameters(task, serving.parameters)
    runner = load_runner(task, pinned, parameters, serving.batch, serving.media_limits(), device="cpu", offline=True)
    return Endpoint(serving, runner, model)


def main() -> None:
    """Serves until it is killed."""
    port, folder, *pairs = sys.argv[1:]
    torch.set_num_threads(1)
    apps = {}
    for pair in pairs:
        task_name, _, model = pair.partition("=")
        apps[f"/{task_name}"] = build_app(endpoint(task_name, model, Path(folder)))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        """Hands a request to the endpoint below whose prefix it is, as Serve's proxy does."""
        if scope["type"] == "http":
            prefix = "/" + scope["path"].split("/")[1]
            await apps[prefix]({**scope, "root_path": prefix}, receive, send)

    uvicorn.run(app, port=int(port), log_level="warning", lifespan="off")


if __name__ == "__main__":
    main()
