"""What a run exports to Prometheus, through Ray's own metrics: counted where blocks are written.

Ray serves these on every node (`ray start --metrics-export-port`) with the prefix `ray_`, and counters with the suffix
`_total`. `cluster_configs/grafana/ray_pipelines.json` is a board of them.
"""

from __future__ import annotations

import functools
from collections import Counter as Tally
from collections.abc import Mapping
from typing import Any

from ray_pipelines.engine.counters import Counters
from ray_pipelines.report.exported import PREFIX, Metric

__all__ = ["METRICS", "publish"]

METRICS = {
    metric.name.removeprefix(PREFIX): metric
    for metric in (
        Metric(PREFIX + "rows", "counter", "Rows that were written, dead letters included."),
        Metric(PREFIX + "errors", "counter", "Dead letters.", ("reason",)),
        Metric(PREFIX + "step_seconds", "counter", "Seconds in each step, over all processes.", ("step",)),
        Metric(
            PREFIX + "worker_seconds", "counter", "Seconds in which workers had rows, or waited for them.", ("state",)
        ),
        Metric(PREFIX + "forwards", "counter", "Forwards of the model."),
        Metric(PREFIX + "chunks", "counter", "Rows, or parts of rows, that went through one."),
        Metric(PREFIX + "cost", "counter", "Tokens, pixels or samples of all forwards, without padding."),
        Metric(PREFIX + "padding", "counter", "Tokens, pixels or samples that were only padding."),
        Metric(PREFIX + "out_of_memory", "counter", "Batches that did not fit and were halved."),
        Metric(PREFIX + "failed_batches", "counter", "Batches that were searched for the row that fails."),
        Metric(PREFIX + "batch_size", "gauge", "Rows, or parts of rows, per forward in the last block."),
        Metric(PREFIX + "batch_budget", "gauge", "Padded cost of one forward at most; 0 for no limit."),
    )
}


def publish(counters: Counters, num_rows: int, reasons: Mapping[str, int], task: str, model: str) -> None:
    """Adds what one block has cost to this process's metrics; does nothing outside Ray.

    Args:
        counters: Of the block.
        num_rows: Its rows, dead letters included.
        reasons: How often each stage and type of error occurred among them.
        task: Task id.
        model: Name of the model.
    """
    import ray

    if not ray.is_initialized():
        return
    counts: Tally[tuple[str, tuple[tuple[str, str], ...]]] = Tally()
    counts["rows", ()] = num_rows
    counts.update({("errors", (("reason", reason),)): count for reason, count in reasons.items()})
    values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = dict(counts)
    values |= {("step_seconds", (("step", step),)): seconds for step, seconds in counters.step_seconds.items()}
    values["worker_seconds", (("state", "busy"),)] = counters.worker_s
    values["worker_seconds", (("state", "waiting"),)] = counters.idle_s
    values |= {
        ("forwards", ()): counters.num_forwards,
        ("chunks", ()): counters.num_chunks,
        ("cost", ()): counters.cost,
        ("padding", ()): max(0, counters.padded_cost - counters.cost),
        ("out_of_memory", ()): counters.num_out_of_memory,
        ("failed_batches", ()): counters.num_failed_batches,
        ("batch_size", ()): counters.num_chunks / max(1, counters.num_forwards),
        ("batch_budget", ()): counters.budget,
    }
    common = {"task": task, "model": model}
    for (name, labels), value in values.items():
        instrument = _instrument(name)
        if METRICS[name].kind == "gauge":
            instrument.set(value, tags={**common, **dict(labels)})
        elif value > 0:
            instrument.inc(value, tags={**common, **dict(labels)})


@functools.cache
def _instrument(name: str) -> Any:
    from ray.util import metrics

    metric = METRICS[name]
    kind = metrics.Counter if metric.kind == "counter" else metrics.Gauge
    return kind(metric.name, description=metric.description, tag_keys=("task", "model", *metric.labels))
