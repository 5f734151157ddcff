"""Pipelines of this project: those that transformers 5 dropped, and those whose bugs are put right.

One flat file per task, named as the task id. `register` makes the dropped ones known to transformers' own registry, so
that they work wherever a pipeline does.
"""

from __future__ import annotations

import importlib
from pathlib import Path

__all__ = ["register"]


def register() -> None:
    """Registers every pipeline of this folder that has a `register` function of its own; again does no harm."""
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if not file.stem.startswith("_"):
            module = importlib.import_module(f"{__name__}.{file.stem}")
            if hasattr(module, "register"):
                module.register()
