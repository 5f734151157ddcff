"""What the contract suite runs: at least one case per task and architecture, gathered from the files of this folder.

A case names a model of `tests/tiny_models.py`, items as `transformers` takes them, and parameters. The expected results
are those of `transformers.pipeline` at batch size 1, made to the task's shape, unless the case brings its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["CASES", "Case"]


@dataclass(frozen=True)
class Case:
    """One task with one model and some items.

    Attributes:
        name: Unique; the test's id.
        task: Task id.
        model: Name of a model of `tests/tiny_models.py`.
        items: Makes the items.
        parameters: Parameters of the task.
        expected: Gives the expected result of one item, in the task's shape, where transformers cannot be the oracle:
            called with the folder of the model and the item.
        bad_item: An item that must fail alone.
        tolerance: Largest difference of scores.
        reference_parameters: Keyword arguments of the reference pipeline, where they differ.
    """

    name: str
    task: str
    model: str
    items: Callable[[], list[Any]]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    expected: Callable[[Path, Any], Any] | None = None
    bad_item: Any = None
    tolerance: float = 1e-4
    reference_parameters: Mapping[str, Any] | None = None


def _gather() -> list[Case]:
    files = sorted(file.stem for file in Path(__file__).parent.glob("*.py") if not file.stem.startswith("_"))
    return [case for file in files for case in importlib.import_module(f"tests.cases.{file}").CASES]


CASES = _gather()
