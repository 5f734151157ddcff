"""What an endpoint exports to Prometheus, through Ray's own metrics.

`cluster_configs/grafana/ray_pipelines.json` shows them below those of jobs. Ray Serve's own metrics (`ray_serve_*`)
count what reached the proxy; these say what became of it, and how the device was shared.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ray_pipelines.report.exported import PREFIX, Metric

if TYPE_CHECKING:
    from ray_pipelines.serve.scheduler import Scheduler

__all__ = ["METRICS", "Meter"]

LATENCIES_S = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60]
PUBLISHED_EVERY_S = 2.0

METRICS = {
    metric.name.removeprefix(PREFIX + "serve_"): metric
    for metric in (
        Metric(PREFIX + "serve_request_seconds", "histogram", "Seconds until a request was answered.", ("status",)),
        Metric(PREFIX + "serve_queue", "gauge", "Chunks of inputs that wait for the device.", ("lane",)),
        Metric(PREFIX + "serve_forwards", "counter", "Forwards of the model.", ("lane",)),
        Metric(PREFIX + "serve_chunks", "counter", "Chunks of inputs that went through one.", ("lane",)),
        Metric(PREFIX + "serve_busy_seconds", "counter", "Seconds of forwards.", ("lane",)),
        Metric(PREFIX + "serve_cost", "counter", "Tokens, pixels or samples of forwards, without padding.", ("lane",)),
        Metric(PREFIX + "serve_padding", "counter", "Tokens, pixels or samples that were only padding.", ("lane",)),
        Metric(PREFIX + "serve_rows", "counter", "Rows of batch jobs that were answered."),
        Metric(PREFIX + "serve_refused", "counter", "Inputs refused for lack of room."),
        Metric(PREFIX + "serve_dropped", "counter", "Inputs dropped because nobody waited for them any more."),
    )
}


class Meter:
    """Publishes what one replica does.

    Args:
        scheduler: Whose counts they are.
        task: Task id.
        model: Name of the model.
    """

    def __init__(self, scheduler: Scheduler, task: str, model: str) -> None:
        self._scheduler = scheduler
        self._tags = {"task": task, "model": model}
        self._instruments = {name: _instrument(metric) for name, metric in METRICS.items()}
        self._known: dict[tuple[str, str], float] = {}
        self._published_s = float("-inf")

    def request(self, status: int, elapsed_s: float) -> None:
        """Notes an answer."""
        self._instruments["request_seconds"].observe(elapsed_s, tags={**self._tags, "status": str(status)})
        if time.monotonic() - self._published_s > PUBLISHED_EVERY_S:
            self.publish()

    def publish(self) -> None:
        """Brings all else up to date."""
        self._published_s = time.monotonic()
        stats = self._scheduler.stats
        for lane in ("online", "batch"):
            depth = self._scheduler.queue_depth(lane)
            self._instruments["queue"].set(depth, tags={**self._tags, "lane": lane})
        for lane, cost in stats.cost.items():
            counts = {
                "forwards": stats.num_forwards[lane],
                "chunks": stats.num_entries[lane],
                "busy_seconds": stats.busy_s[lane],
                "cost": cost,
                "padding": stats.padded_cost[lane] - cost,
            }
            for name, value in counts.items():
                self._grow(name, value, lane)
        for name, value in (("rows", stats.num_rows), ("refused", stats.num_refused), ("dropped", stats.num_dropped)):
            self._grow(name, value)

    def _grow(self, name: str, value: float, lane: str = "") -> None:
        more = value - self._known.get((name, lane), 0)
        if more > 0:
            self._instruments[name].inc(more, tags={**self._tags, **({"lane": lane} if lane else {})})
            self._known[name, lane] = value


def _instrument(metric: Metric) -> Any:
    from ray.util import metrics

    options = {"description": metric.description, "tag_keys": ("task", "model", *metric.labels)}
    if metric.kind == "histogram":
        return metrics.Histogram(metric.name, boundaries=LATENCIES_S, **options)
    return (metrics.Counter if metric.kind == "counter" else metrics.Gauge)(metric.name, **options)
