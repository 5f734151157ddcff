"""Whether speed and memory stay flat as the dataset grows, and what the machinery costs per row.

    python -m benchmarks.scaling --quick        1,000 and 10,000 rows
    python -m benchmarks.scaling                up to 100,000
    python -m benchmarks.scaling --million      up to 1,000,000 (five minutes on two cores)

A classifier of two tiny layers, so that the model is next to nothing, over short texts from Parquet to Parquet. Per
size: rows per second since a worker first had rows, the driver's largest resident memory, and the largest use of
Ray's object store. Beside it runs the same dataset through a worker of plain Ray Data that does nothing. What is left
of a row's time without the model and that worker is the price of typed results, dead letters and reports.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import save

ROWS_PER_FILE = 50_000


class Noop:
    """A worker that hands its rows on."""

    def __call__(self, table: pa.Table) -> pa.Table:
        return table


class Peaks:
    """The largest memory of the driver and of the object store while the block runs."""

    driver_bytes = 0
    store_bytes = 0

    def __enter__(self) -> Peaks:
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_done.set()
        self._thread.join()

    def _sample(self) -> None:
        import ray
        from ray._private.internal_api import get_memory_info_reply, get_state_from_address

        state = get_state_from_address(ray.get_runtime_context().gcs_address)
        while not self._is_done.wait(0.25):
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
            used = get_memory_info_reply(state).store_stats.object_store_bytes_used
            self.driver_bytes = max(self.driver_bytes, resident)
            self.store_bytes = max(self.store_bytes, used)


def main() -> None:
    """Measures each size and writes results/scaling.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two small sizes; figures are not written")
    parser.add_argument("--million", action="store_true", help="a million rows too")
    parser.add_argument("--sizes", type=int, nargs="*", help="these numbers of rows instead; figures are not written")
    arguments = parser.parse_args()
    sizes = [1_000, 10_000, *([] if arguments.quick else [100_000]), *([1_000_000] if arguments.million else [])]
    sizes = arguments.sizes or sizes
    import ray

    with tempfile.TemporaryDirectory(prefix="scale-", dir="/tmp") as scratch:
        ray.init(num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, _temp_dir=f"{scratch}/ray")
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        try:
            found = [measure(rows, Path(scratch)) for rows in sizes]
        finally:
            ray.shutdown()
    if not arguments.quick and not arguments.sizes:
        save("scaling", {"sizes": found})


def measure(rows: int, scratch: Path) -> dict[str, Any]:
    """The figures of one size."""
    import ray

    import ray_pipelines as rp
    from tests.tiny_models import build_model

    folder = scratch / f"rows-{rows}"
    folder.mkdir()
    for first in range(0, rows, ROWS_PER_FILE):
        texts = [f"the quick brown fox {n % 977}" for n in range(first, min(rows, first + ROWS_PER_FILE))]
        pq.write_table(pa.table({"text": texts}), folder / f"{first:08}.parquet")
    start_s = time.perf_counter()
    noop = ray.data.read_parquet(str(folder)).repartition(target_num_rows_per_block=512)
    noop = noop.map_batches(
        Noop, batch_size=512, batch_format="pyarrow", compute=ray.data.ActorPoolStrategy(size=1), num_cpus=1
    )
    noop.write_parquet(str(scratch / f"noop-{rows}"))
    noop_s = time.perf_counter() - start_s
    job = {
        "task": "text-classification",
        "model": {"name": str(build_model("bert-classifier", scratch / "model"))},
        "inputs": {"text": "text"},
        "read": {"path": str(folder)},
        "write": {"path": str(scratch / f"out-{rows}")},
    }
    with Peaks() as peaks:
        report = rp.run_job(rp.Job.model_validate(job)).report
    assert report.num_results == rows
    forward_s = report.figures.step_seconds["forward"]
    figures = {
        "rows": rows,
        "rows_per_s": report.rows_per_s,
        "elapsed_s": report.elapsed_s,
        "startup_s": report.startup_s,
        "driver_peak_mib": peaks.driver_bytes >> 20,
        "object_store_peak_mib": peaks.store_bytes >> 20,
        "noop_elapsed_s": noop_s,
        "row_us": 1e6 * (report.elapsed_s - report.startup_s) / rows,
        "row_us_without_model": 1e6 * (report.elapsed_s - report.startup_s - forward_s) / rows,
        "row_us_of_noop": 1e6 * noop_s / rows,
        "step_us_per_row": {step: 1e6 * seconds / rows for step, seconds in report.figures.step_seconds.items()},
    }
    print(figures, flush=True)
    return figures


if __name__ == "__main__":
    main()
