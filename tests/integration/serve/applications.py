"""Applications for the tests of sharing: replicas that a certain row kills."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application

from ray_pipelines.engine.exchange import RowAnswers, RowBatch
from ray_pipelines.serve.application import PipelineReplica, app

DEADLY, SLOW = "deadly", "slow"
UNTIL = "until "
"""How the text of a row begins that waits until the file exists whose path follows."""
WAITS = "waits"
"""A file beside it, which says that rows wait."""


class DeadlyReplica(PipelineReplica):
    """A replica whose process ends once it has a row with a certain text, and that takes its time for others."""

    async def run_rows(self, batch: RowBatch) -> RowAnswers:
        columns = batch.columns
        texts = columns["text"].to_pylist() if "text" in columns.column_names else []
        if DEADLY in texts:
            os.kill(os.getpid(), signal.SIGKILL)
        if any(text is not None and text.startswith((SLOW, UNTIL)) for text in texts):
            # They wait, as rows do that have no turn yet.
            self.endpoint.blocks.num_rows += len(texts)
            await asyncio.sleep(0.3)
            for text in texts:
                if text is not None and text.startswith(UNTIL):
                    await exists(Path(text.removeprefix(UNTIL)))
            self.endpoint.blocks.num_rows -= len(texts)
        return await super().run_rows(batch)


async def exists(path: Path) -> None:
    """Waits until a file exists, and writes one beside it that says so."""
    path.with_name(WAITS).touch()
    while not path.exists():
        await asyncio.sleep(0.1)


def application(model: str, **settings: Any) -> Application:
    """An application of `DeadlyReplica`s."""
    args = {f"serve.{name}": value for name, value in settings.items()}
    bound = app({"task": "text-classification", "model": model, "workers.num_cpus": 0.1, **args})._bound_deployment
    return bound.options(func_or_class=DeadlyReplica).bind(*bound.init_args)


def deploy(name: str, model: str, **settings: Any) -> None:
    """Runs an application, and waits until it answers."""
    serve.run(application(model, **settings), name=name, route_prefix=f"/{name}")


def remove(name: str) -> None:
    """Takes an application away."""
    serve.delete(name)
