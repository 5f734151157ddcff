"""The contenders that any task has: `pipeline` at batch sizes 1, 8, 32, a Ray stage by hand, this project both ways."""

from __future__ import annotations

import argparse
import io
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import alternate, bars, medians, save, seconds_of

SIZES = (1, 8, 32)
BLOCKS = 4
"""Blocks of a job on Ray, each with all items."""
OURS = ("ray_pipelines run", "ray_pipelines job")


@dataclass(frozen=True)
class Workload:
    """What one benchmark runs.

    Attributes:
        name: Of the results.
        task: Task id.
        folder: The model.
        items: What `transformers.pipeline` takes.
        column: What the same items are in a Parquet column: text, or the bytes of a file.
        input: The task's input that the column is for.
        decode: Makes what `pipeline` takes of a value of the column.
        parameters: Of the task.
    """

    name: str
    task: str
    folder: Path
    items: Sequence[Any]
    column: Sequence[Any]
    input: str
    decode: Callable[[Any], Any]
    parameters: Mapping[str, Any] = field(default_factory=dict)


def arguments_of(description: str | None, rows: int) -> argparse.Namespace:
    """The command line that the benchmarks share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=rows, help=f"rows of one measurement (default: {rows})")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each contender (default: 1)")
    parser.add_argument("--quick", action="store_true", help="a fourth of the rows; no plot")
    parser.add_argument("--without-ray", action="store_true", help="leave out what needs a Ray cluster")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rows = max(8, arguments.rows // 4)
    return arguments


def compare(workload: Workload, title: str, arguments: argparse.Namespace) -> None:
    """Measures all contenders in turn and prints a table of ratios; writes JSON, and a plot unless in a hurry."""
    measures = contenders(workload)
    if arguments.without_ray:
        measures = {name: run for name, run in measures.items() if name not in ON_RAY}
    found = medians(alternate(measures, arguments.rounds))
    best = max(speed for name, speed in found.items() if name.startswith("pipeline"))
    ratios = {name: speed / best for name, speed in found.items()}
    print(f"\n{title}: rows per second, and as a multiple of the best pipeline")
    print(*(f"{found[name]:10.1f}  {ratio:5.2f}  {name}" for name, ratio in ratios.items()), sep="\n")
    save(workload.name, {"rows": len(workload.items), "rows_per_s": found, "of the best pipeline": ratios})
    if not arguments.quick:
        bars(workload.name, title, found, "rows per second", OURS)


ON_RAY = ("map_batches + pipeline", "ray_pipelines job")


def contenders(work: Workload) -> dict[str, Callable[[], float]]:
    """Name: a function that measures rows per second."""
    from transformers import pipeline

    import ray_pipelines as rp

    pipe = pipeline(work.task, model=str(work.folder), device="cpu")
    spec = rp.pipeline(work.task, model=str(work.folder), device="cpu", **work.parameters)
    spec.run(list(work.items[:8]))
    pipe(list(work.items[:2]), **work.parameters)

    def of(function: Callable[[], Any]) -> Callable[[], float]:
        return lambda: len(work.items) / seconds_of(function)

    measures = {
        f"pipeline {size}": of(lambda size=size: pipe(list(work.items), batch_size=size, **work.parameters))
        for size in SIZES
    }
    measures["map_batches + pipeline"] = lambda: by_hand_speed(work)
    measures["ray_pipelines run"] = of(lambda: spec.run(list(work.items)))
    measures["ray_pipelines job"] = lambda: job_speed(work)
    return measures


def job_speed(work: Workload) -> float:
    """Rows per second of a job on Ray, since its worker was loaded."""
    import ray_pipelines as rp

    with local_ray() as scratch:
        job = {
            "task": work.task,
            "model": str(work.folder.resolve()),
            "parameters": dict(work.parameters),
            "inputs": {work.input: "item"},
            "read": {"path": str(_parquet(work, scratch, BLOCKS)), "rows_per_block": len(work.items)},
            "write": {"path": f"{scratch}/output", "columns": []},
        }
        result = rp.run_job(rp.Job.model_validate(job))
        assert result.report.num_results == BLOCKS * len(work.items), result.report.reasons
        figures = result.report.figures
        # Per second in which the one worker had rows or waited for some: short runs write their blocks all at once.
        busy_rows_per_s = result.report.num_rows * figures.cost_per_s / figures.cost
        return busy_rows_per_s * (1 - figures.device_idle)


def by_hand_speed(work: Workload) -> float:
    """Rows per second of `map_batches` around a pipeline with batches of 32, after the first batch."""
    import ray

    task, folder, parameters, decode = work.task, str(work.folder.resolve()), dict(work.parameters), work.decode

    class Stage:
        def __init__(self) -> None:
            import torch
            from transformers import pipeline

            torch.set_num_threads(2)
            self.pipe = pipeline(task, model=folder, device="cpu")

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            results = self.pipe([decode(value) for value in batch["item"]], batch_size=32, **parameters)
            return {"result": [str(result) for result in results], "at_s": [time.time()] * len(results)}

    with local_ray() as scratch:
        copies = 2 + 3 * 32 // len(work.items)
        rows = ray.data.read_parquet(str(_parquet(work, scratch, copies)))
        made = rows.map_batches(Stage, batch_size=32, compute=ray.data.ActorPoolStrategy(size=1))
        made.write_parquet(f"{scratch}/by-hand")
        ends_s = ray.data.read_parquet(f"{scratch}/by-hand").to_pandas()["at_s"].value_counts().sort_index()
        return float(ends_s.iloc[1:].sum() / (ends_s.index[-1] - ends_s.index[0]))


@contextmanager
def local_ray() -> Iterator[str]:
    """A local cluster of its own with two CPUs, and a scratch folder; both are gone when the block ends."""
    import ray

    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        ray.init(num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, _temp_dir=f"{scratch}/ray")
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        try:
            yield scratch
        finally:
            ray.shutdown()


def _parquet(work: Workload, scratch: str, copies: int) -> Path:
    path = Path(scratch) / "items.parquet"
    pq.write_table(pa.table({"item": list(work.column) * copies}), path, row_group_size=len(work.column))
    return path


def file_bytes(save_to: Callable[[io.BytesIO], Any]) -> bytes:
    """What `save_to` writes."""
    buffer = io.BytesIO()
    save_to(buffer)
    return buffer.getvalue()
