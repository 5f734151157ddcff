"""Pipelines of this project: those that transformers 5 dropped, and those whose bugs are put right.

One flat file per task, named as the task id. The file of a dropped task has a function `register` that hands its class
to `register_task`. After `register()` such a task works wherever a pipeline does, in `transformers.pipeline()` too.
Only `transformers.pipeline("image-to-text")` still goes elsewhere, as transformers rewrites that name before it asks
its registry; there, pass `pipeline_class`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["register", "register_task"]


def register(name: str | None = None) -> None:
    """Registers every pipeline of this folder that has a `register` function of its own; again does no harm.

    Args:
        name: Also registers this name of a family: `translation_xx_to_yy`.
    """
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if not file.stem.startswith("_"):
            module = importlib.import_module(f"{__name__}.{file.stem}")
            if hasattr(module, "register"):
                module.register()
    if name is not None and name.startswith("translation_"):
        importlib.import_module(f"{__name__}.translation").register_pair(name)


def register_task(
    name: str,
    pipeline_class: type,
    model_classes: Sequence[type],
    *,
    default: tuple[str, str] | None = None,
    modality: str = "text",
    aliases: Sequence[str] = (),
) -> None:
    """Makes a task that transformers dropped known to its registry again, unless it is already.

    transformers refuses the names in `REMOVED_TASKS` before it asks its registry; the name is taken off that list.

    Args:
        name: Task id.
        pipeline_class: The class of its pipelines.
        model_classes: Auto classes that load its models.
        default: Hub id and revision of the model where none is named.
        modality: What the task is about, as in transformers' registry: `text`, `image`, `multimodal`, …
        aliases: Other ids of the task.
    """
    from transformers import pipelines
    from transformers.pipelines import PIPELINE_REGISTRY

    removed: dict[str, str] = getattr(pipelines, "REMOVED_TASKS", {})
    known: dict[str, Any] = PIPELINE_REGISTRY.supported_tasks.get(name, {})
    if known.get("impl") is not pipeline_class:
        PIPELINE_REGISTRY.register_pipeline(
            name,
            pipeline_class=pipeline_class,
            pt_model=tuple(model_classes),
            default={"model": default} if default else None,
            type=modality,
        )
    for alias in aliases:
        PIPELINE_REGISTRY.task_aliases[alias] = name
    for each in (name, *aliases):
        removed.pop(each, None)
