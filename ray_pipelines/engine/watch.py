"""Who is told what a runner is about to do with which rows, so that a row that never comes back can be found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from ray_pipelines.errors import Stage

__all__ = ["Watch"]

T = TypeVar("T")


class Watch:
    """Lets everything happen; a worker of a dataset has one that keeps time and takes notes (`data/watchdog.py`)."""

    timeout_s: float | None = None
    """Seconds that a step may take; None for no limit."""

    def run(self, stage: Stage, rows: Sequence[int], function: Callable[[], T]) -> T:
        """The result of `function()`, a step of `rows`, which are places among the items of the run.

        Raises:
            RowTimeout: It took too long, and could be interrupted.
        """
        return function()
