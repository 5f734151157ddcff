"""What a run's time and memory went to, and the one setting to change next."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray_pipelines.engine.counters import Counters

__all__ = ["Figures", "advice"]


@dataclass(frozen=True)
class Figures:
    """The figures of a run, or of what it has done so far.

    Attributes:
        rows_per_s: Rows per second after the first block.
        cost_unit: What the model's inputs are counted in: tokens, pixels, samples, frames or values.
        cost: The inputs of all forwards, in that unit, without padding.
        cost_per_s: The same per second in which workers had rows, over all workers.
        audio_s_per_s: Seconds of audio per second; 0 where there is no audio.
        generated_tokens: Tokens that were generated.
        padding: Share of the inputs of all forwards that was padding, 0 to 1.
        forwards: Forwards of the model.
        chunks_per_forward: Rows, or parts of rows, of one forward on average.
        truncated_rows: Rows that were cut at the maximum length.
        out_of_memory_splits: Batches that did not fit and were halved.
        failed_batches: Batches that failed and were searched for the guilty row.
        extra_forwards: Forwards which that search has cost.
        step_seconds: Step (read, decode, preprocess, forward, postprocess, write): seconds, over all processes.
        step_shares: Step: share of these seconds, 0 to 1.
        device_busy: Share of the time since they were loaded that workers spent in forwards, 0 to 1.
        device_idle: Share of that time that they waited for rows.
        budget: Padded cost of one forward at most, as it was chosen; 0 for no limit.
        max_size: Rows of one forward at most.
        dtype: Precision of the model.
        device: Where it ran.
        compiled_graphs: Graphs that were compiled, where `optimize.compile` asks for it.
        warmup_s: Seconds that this took, over all workers; not among the forwards.
        num_tasks: Tasks that shared the workers.
        advice: The one setting to change next, and why.
    """

    rows_per_s: float = 0.0
    cost_unit: str = ""
    cost: int = 0
    cost_per_s: float = 0.0
    audio_s_per_s: float = 0.0
    generated_tokens: int = 0
    padding: float = 0.0
    forwards: int = 0
    chunks_per_forward: float = 0.0
    truncated_rows: int = 0
    out_of_memory_splits: int = 0
    failed_batches: int = 0
    extra_forwards: int = 0
    step_seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    step_shares: Mapping[str, float] = dataclasses.field(default_factory=dict)
    device_busy: float = 0.0
    device_idle: float = 0.0
    budget: int = 0
    max_size: int = 0
    dtype: str = ""
    device: str = ""
    cheaper: str = ""
    compiled_graphs: int = 0
    warmup_s: float = 0.0
    num_tasks: int = 1
    advice: str = ""

    @classmethod
    def of(cls, counters: Counters, rows_per_s: float, num_workers: int = 1) -> Figures:
        """The figures that counters add up to.

        Args:
            counters: Of all blocks together.
            rows_per_s: Rows per second of the whole run.
            num_workers: Workers that ran at the same time.
        """
        alive_s = counters.worker_s + counters.idle_s
        total_s = sum(counters.step_seconds.values())
        figures = cls(
            rows_per_s=rows_per_s,
            cost_unit=counters.cost_unit,
            cost=counters.cost,
            cost_per_s=_ratio(counters.cost, counters.worker_s) * num_workers,
            audio_s_per_s=_ratio(counters.audio_s, counters.worker_s) * num_workers,
            generated_tokens=counters.num_generated,
            padding=_ratio(counters.padded_cost - counters.cost, counters.padded_cost),
            forwards=counters.num_forwards,
            chunks_per_forward=_ratio(counters.num_chunks, counters.num_forwards),
            truncated_rows=counters.num_truncated,
            out_of_memory_splits=counters.num_out_of_memory,
            failed_batches=counters.num_failed_batches,
            extra_forwards=counters.num_extra_forwards,
            step_seconds=dict(counters.step_seconds),
            step_shares={step: _ratio(seconds, total_s) for step, seconds in counters.step_seconds.items()},
            device_busy=min(1.0, _ratio(counters.forward_s, alive_s)),
            device_idle=_ratio(counters.idle_s, alive_s),
            budget=counters.budget,
            max_size=counters.max_size,
            dtype=counters.dtype,
            device=counters.device,
            cheaper=counters.cheaper,
            compiled_graphs=counters.num_graphs,
            warmup_s=counters.warmup_s,
            num_tasks=max(1, len(counters.parts)),
        )
        return dataclasses.replace(figures, advice=advice(figures))

    def share_of(self, whole: Figures) -> str:
        """How much of the time of all tasks one has taken, and what with, in one line."""
        own, total = (sum(figures.step_seconds.values()) for figures in (self, whole))
        steps = sorted(self.step_seconds.items(), key=lambda step: -step[1])
        most = ", ".join(f"{step} {_ratio(seconds, own):.0%}" for step, seconds in steps[:2] if seconds)
        return (
            f"{_ratio(own, total):.0%} of the time ({most}), {self.cost_per_s:,.0f} {self.cost_unit}/s, "
            f"{self.padding:.1%} padding, {self.chunks_per_forward:,.1f} per forward"
        )

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON holds them, rounded."""
        return {name: _rounded(value) for name, value in dataclasses.asdict(self).items()}


def advice(figures: Figures) -> str:
    """The one setting to change next, with the reason: what would save most of the run's time.

    >>> advice(Figures(device_busy=0.9, dtype="float32", cheaper="optimize.int8: true", forwards=10)).split(",")[0]
    'optimize.int8: true'
    """
    seconds, busy = figures.step_seconds, f"the device is busy {figures.device_busy:.0%} of the time"
    if not figures.forwards:
        return "Nothing was measured: no row came to the model."
    if figures.out_of_memory_splits > 3:
        return (
            f"batch.budget: lower it; {figures.out_of_memory_splits:,} batches did not fit into memory and were run "
            "again."
        )
    if figures.extra_forwards > 0.2 * figures.forwards:
        return (
            f"batch.max_size: 1, or clean the input: {figures.extra_forwards:,} of {figures.forwards:,} forwards only "
            "searched for rows that fail."
        )
    if figures.padding > 0.1:
        return f"batch.window_rows: raise it, so that rows of like length meet; {figures.padding:.0%} of it is padding."
    on_cpu = {step: seconds.get(step, 0.0) for step in ("decode", "preprocess", "postprocess")}
    slowest = max(on_cpu, key=lambda step: on_cpu[step])
    if figures.device != "cpu" and on_cpu[slowest] > seconds.get("forward", 0.0) and figures.num_tasks == 1:
        return f"workers.stages: split, so that CPU tasks do the {slowest}, which takes longer than the model; {busy}."
    if figures.device_idle > 0.3:
        slow = max(("read", "write"), key=lambda step: seconds.get(step, 0.0))
        return f"read.rows_per_block: lower it; workers wait for rows {figures.device_idle:.0%} of the time ({slow})."
    if figures.dtype == "float32" and figures.cheaper and figures.device_busy > 0.5:
        cheaper = figures.cheaper if figures.num_tasks == 1 else f"tasks.NAME.{figures.cheaper}"
        return f"{cheaper}, if its results are close enough for you; {busy}, in float32."
    if figures.device_busy > 0.5:
        return f"workers.concurrency: more workers on more machines; {busy}, so only more devices make it faster."
    if figures.device != "cpu":
        return f"workers.num_cpus: raise it; {busy}."
    longest = max(seconds, key=lambda step: seconds[step])
    share = _ratio(seconds[longest], sum(seconds.values()))
    return f"workers.concurrency: more workers on more machines; {longest} takes the most time, {share:.0%}."


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _rounded(item) for name, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value
