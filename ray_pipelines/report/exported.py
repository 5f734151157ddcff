"""What a metric is called where Ray exports it to Prometheus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["PREFIX", "Metric"]

PREFIX = "pipelines_"
SUFFIXES = {"counter": "_total", "gauge": "", "histogram": "_bucket"}


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: Its name, without Ray's prefix.
        kind: A counter only grows; a gauge is what it was last; a histogram counts values by size.
        description: One sentence for people.
        labels: Its labels besides `task` and `model`.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    labels: tuple[str, ...] = ()

    @property
    def exported_name(self) -> str:
        """The name under which Prometheus finds it.

        >>> Metric("pipelines_rows", "counter", "Rows.").exported_name
        'ray_pipelines_rows_total'
        """
        return f"ray_{self.name}{SUFFIXES[self.kind]}"
