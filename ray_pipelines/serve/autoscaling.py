"""How many replicas: by online load, and by the backlog of batch jobs only if asked to.

Ray Serve counts every call at work, so that a batch job, which always has some, would take all replicas there may be.
Replicas report requests and rows apart instead (`PipelineReplica.record_autoscaling_stats`); Serve averages what they
report and waits before it follows (`upscale_delay_s`, `downscale_delay_s`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

__all__ = ["OnlineLoad"]

ROWS_PER_REQUEST = 32
"""Rows of batch jobs that weigh as much as one request, where they count."""


class OnlineLoad:
    """A policy of Ray Serve: as many replicas as the requests at work need.

    Args:
        requests_per_replica: What each replica should have at work.
        scale_on_batch: Rows of batch jobs count, too.
    """

    def __init__(self, requests_per_replica: float, scale_on_batch: bool) -> None:
        self.requests_per_replica = requests_per_replica
        self.scale_on_batch = scale_on_batch

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The number of replicas, between the bounds."""
        metrics = context.aggregated_metrics or {}
        load = sum(metrics.get("online", {}).values())
        if self.scale_on_batch:
            load += sum(metrics.get("batch", {}).values()) / ROWS_PER_REQUEST
        wanted = math.ceil(load / self.requests_per_replica)
        least, most = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
        return max(least, min(most, max(1, wanted))), {}
