"""What an endpoint adds to the model, what it answers under load, and what a batch job beside it costs.

    python -m benchmarks.serving --quick                 a look, a few seconds each
    python -m benchmarks.serving                         with Serve's Python proxy
    python -m benchmarks.serving --proxy haproxy         with HAProxy in front

The model is the MiniLM classifier (22M), one replica with one thread. Clients are a process of their own
(`http_load.py`) on the same machine. In turn, on one cluster:

* latency: one client, one request after the other, at a deployment that does nothing (*no-op*), at one that is
  `pipeline(text)` (*by hand*), and at this project's (*ours*). What ours adds is its median less that of the no-op and
  of the bare call, which the replica by hand times itself.
* saturation: 32 clients without rest, short texts (up to 160 characters) and natural ones of mixed length: ours, by
  hand (one text at a time), and `@serve.batch` around the pipeline. Beside them stands what the model itself gives,
  without HTTP: one text at a time, and sorted batches of 32 at once, which is the most that batching can gain.
* beside a job: 2 clients that rest 100 ms, and 12 requests per second at random moments, alone, and while a job over
  texts of the same kind keeps the replica busy: ours (`workers: serve://`), and a replica by hand whose blocks of 32
  rows and requests wait in one line (*FIFO*). What the job keeps is its throughput beside the clients over that
  without: tokens per second where rows are sorted by length, else rows.
* memory: of all processes that hold the model, before the job and during it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import bars, classifier, docstrings, load, loop, save, seconds_of
from benchmarks.http_load import PARAMETERS

PORT = 8123
BLOCK = 32
JOB_ROWS = 16384
MAX_SHORT = 160
SATURATING = 32
CLIENTS = {"closed loop": ["--clients", "2", "--rest-ms", "100"], "open loop": ["--per-second", "12"]}


def main() -> None:
    """Measures all and writes results/serving-PROXY.json and plots/serving.svg."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proxy", choices=["python", "haproxy"], default="python")
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement (default: 20)")
    parser.add_argument("--rounds", type=int, default=3, help="of latency and saturation (default: 3)")
    parser.add_argument("--quick", action="store_true", help="one round of 4 seconds; figures are not written")
    parser.add_argument("--slice-ms", type=float, nargs="*", default=[20], help="slice_budget_ms to try (default: 20)")
    parser.add_argument("--only", nargs="*", choices=["latency", "saturation", "job", "fifo"], help="these parts")
    arguments = parser.parse_args()
    seconds, rounds = (4.0, 1) if arguments.quick else (arguments.seconds, arguments.rounds)
    parts = arguments.only or ["latency", "saturation", "job", "fifo"]
    found: dict[str, Any] = {"proxy": arguments.proxy}
    with _cluster(arguments.proxy) as scratch:
        bench = Bench(seconds, rounds, scratch)
        if "latency" in parts:
            found["latency"] = bench.latency()
        if "saturation" in parts:
            found["saturation"] = bench.saturation()
        if "job" in parts:
            ours = {f"ours, slices of {ms:g} ms": bench.beside_our_job(ms) for ms in arguments.slice_ms}
            found["beside a job"] = ours
        if "fifo" in parts:
            found["beside a job in one line"] = bench.beside_fifo_job()
    print(json.dumps(found, indent=2))
    if not arguments.quick and not arguments.only:
        save(f"serving-{arguments.proxy}", found)
        if arguments.proxy == "python":
            title = f"{SATURATING} clients, short texts (MiniLM classifier, one replica of one thread)"
            bars("serving", title, found["saturation"]["short"]["requests_per_s"], "requests per second", ["ours"])


# --- the contenders


def _no_op() -> Any:
    from ray import serve

    @serve.deployment(max_ongoing_requests=256)
    class NoOp:
        async def __call__(self, request: Any) -> Any:
            await request.json()
            return [{"label": "LABEL_0", "score": 1.0}]

    return NoOp.bind()


def _by_hand(folder: Path) -> Any:
    """As Ray Serve's documentation begins: `pipeline` in a replica, and requests one after the other."""
    from ray import serve

    @serve.deployment(max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})
    class ByHand:
        def __init__(self) -> None:
            self.pipe = _pipeline(folder)
            self.calls_s: list[float] = []
            self.num_rows = 0

        async def __call__(self, request: Any) -> Any:
            body = await request.json()
            start_s = time.perf_counter()
            made = self.pipe(body["inputs"], **body["parameters"])
            self.calls_s.append(time.perf_counter() - start_s)
            return made

        async def rows(self, texts: list[str]) -> list[Any]:
            made: list[Any] = self.pipe(texts, batch_size=8, **PARAMETERS)
            self.num_rows += len(texts)
            return made

        async def describe(self) -> dict[str, Any]:
            return {"stats": {"num_rows": self.num_rows}, "calls_s": self.calls_s}

    return ByHand.bind()


def _batched(folder: Path) -> Any:
    """`@serve.batch` with the settings that its documentation shows."""
    from ray import serve

    @serve.deployment(max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})
    class Batched:
        def __init__(self) -> None:
            self.pipe = _pipeline(folder)

        @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.05)
        async def handle(self, texts: list[str]) -> list[Any]:
            return self.pipe(texts, batch_size=len(texts), **PARAMETERS)  # type: ignore[no-any-return]

        async def __call__(self, request: Any) -> Any:
            return await self.handle((await request.json())["inputs"])

    return Batched.bind()


def _ours(folder: Path, slice_ms: float = 20) -> Any:
    from ray_pipelines.serve import app

    settings = {"serve.name": "ours", "serve.slice_budget_ms": slice_ms, "workers.num_threads": 1}
    return app({"task": "text-classification", "model": str(folder), **settings})


def _pipeline(folder: Path) -> Any:
    import torch
    from transformers import pipeline

    torch.set_num_threads(1)
    return pipeline("text-classification", model=str(folder), device="cpu")


# --- what is measured


@dataclass
class Bench:
    """The measurements.

    Args:
        seconds: Of one of them.
        rounds: How often those are made that take turns.
        scratch: A folder.
    """

    seconds: float
    rounds: int
    scratch: Path

    def __post_init__(self) -> None:
        texts = docstrings(8192)
        self.folder = classifier().absolute()
        self.short = [text for text in texts if len(text) <= MAX_SHORT][:256]
        self.mixed = texts[:512]
        self.job_texts = list(itertools.islice(itertools.cycle(self.short), JOB_ROWS))

    def latency(self) -> dict[str, Any]:
        """Milliseconds of one client's requests."""
        made: dict[str, list[float]] = {"no-op": [], "by hand": [], "ours": []}
        calls: list[float] = []
        with (
            _deployed("no-op", _no_op()),
            _deployed("ours", _ours(self.folder)),
            _deployed("by hand", _by_hand(self.folder)) as handle,
        ):
            for name in made:
                self._ask(name, self.short, "--seconds", "3")
            for _ in range(self.rounds):
                for name, latencies in made.items():
                    before = len(handle.describe.remote().result()["calls_s"])
                    latencies += self._ask(name, self.short)["latencies_s"]
                    calls += handle.describe.remote().result()["calls_s"][before:]
        figures = {name: _percentiles(latencies) for name, latencies in made.items()}
        figures["bare call"] = _percentiles(calls)
        added = figures["ours"]["p50_ms"] - figures["no-op"]["p50_ms"] - figures["bare call"]["p50_ms"]
        return {**figures, "added by ours to no-op and call, p50_ms": round(added, 2)}

    def saturation(self) -> dict[str, Any]:
        """Requests per second of many clients, by the lengths of their texts."""
        found: dict[str, Any] = {}
        with contextlib.ExitStack() as stack:
            contenders = {"ours": _ours, "by hand": _by_hand, "@serve.batch": _batched}
            for name, make in contenders.items():
                stack.enter_context(_deployed(name, make(self.folder)))
            for lengths, texts in (("short", self.short), ("mixed", self.mixed)):
                speeds: dict[str, list[float]] = {name: [] for name in contenders}
                latencies: dict[str, list[float]] = {name: [] for name in contenders}
                for name in contenders:
                    self._ask(name, texts, "--clients", str(SATURATING), "--seconds", "4")
                for _ in range(self.rounds):
                    for name in contenders:
                        made = self._ask(name, texts, "--clients", str(SATURATING))
                        speeds[name].append(len(made["latencies_s"]) / made["seconds"])
                        latencies[name] += made["latencies_s"]
                medians = {name: round(statistics.median(values), 1) for name, values in speeds.items()}
                found[lengths] = {
                    "requests_per_s": medians,
                    "ours over": {name: round(medians["ours"] / medians[name], 2) for name in list(medians)[1:]},
                    "latency": {name: _percentiles(values) for name, values in latencies.items()},
                }
        for lengths, texts in (("short", self.short), ("mixed", self.mixed)):
            found[lengths]["the model by itself, rows_per_s"] = self._limits(texts)
        return found

    def _limits(self, texts: Sequence[str]) -> dict[str, float]:
        import torch

        model, tokenizer = load(self.folder)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        speeds = {}
        for size in (1, SATURATING):
            groups = list(_groups(texts, size))
            elapsed_s = seconds_of(lambda groups=groups: [loop(model, tokenizer, group) for group in groups])
            speeds[f"{size} at once"] = round(len(texts) / elapsed_s, 1)
        torch.set_num_threads(threads)
        return speeds

    def beside_our_job(self, slice_ms: float) -> dict[str, Any]:
        """Online latency alone and beside a job on the replica, and what the job keeps."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        import ray_pipelines as rp

        pq.write_table(pa.table({"text": self.job_texts}), self.scratch / "in.parquet")
        job = rp.Job.model_validate(
            {
                "task": "text-classification",
                "model": {"name": str(self.folder)},
                "parameters": PARAMETERS,
                "workers": "serve://ours",
                "read": {"path": str(self.scratch / "in.parquet")},
                "write": {"path": str(self.scratch / "out"), "mode": "overwrite"},
            }
        )
        is_over = threading.Event()

        def run() -> None:
            def on_progress(_: Any) -> None:
                if is_over.is_set():
                    raise KeyboardInterrupt

            with contextlib.suppress(BaseException):
                rp.run_job(job, on_progress)

        with _deployed("ours", _ours(self.folder, slice_ms)) as handle:
            return self._beside("ours", handle, run, is_over)

    def beside_fifo_job(self) -> dict[str, Any]:
        """The same of a replica whose blocks and requests wait in one line."""
        is_over = threading.Event()
        with _deployed("fifo", _by_hand(self.folder)) as handle:

            def run() -> None:
                blocks = [self.job_texts[start : start + BLOCK] for start in range(0, JOB_ROWS, BLOCK)]
                in_flight: list[Any] = []
                for block in blocks:
                    if is_over.is_set():
                        break
                    in_flight.append(handle.rows.remote(block))
                    if len(in_flight) == 2:
                        in_flight.pop(0).result()
                for answer in in_flight:
                    answer.result()

            return self._beside("fifo", handle, run, is_over)

    def _beside(self, name: str, handle: Any, run: Callable[[], None], is_over: threading.Event) -> dict[str, Any]:
        self._ask(name, self.short, "--seconds", "3")
        alone = {kind: self._ask(name, self.short, *clients) for kind, clients in CLIENTS.items()}
        memory = {"processes with the model, MB, before the job": _holding_mib()}
        job = threading.Thread(target=run)
        job.start()
        while not _work_done(handle):
            time.sleep(0.2)
        time.sleep(2)
        speeds, beside, device = [], {}, {}
        for kind, clients in CLIENTS.items():
            speeds.append(self._job_speed(handle, lambda: time.sleep(self.seconds)))
            before, start_s = handle.describe.remote().result()["stats"], time.perf_counter()
            beside[kind], speed = self._job_speed_and(handle, name, clients)
            device[kind] = self._device(handle, before, time.perf_counter() - start_s)
            speeds.append(speed)
        memory["processes with the model, MB, beside the job"] = _holding_mib()
        if not job.is_alive():
            raise SystemExit("the job was over before its clients were: fewer --seconds")
        is_over.set()
        job.join()
        without = statistics.mean(speeds[::2])
        figures: dict[str, Any] = {"job without clients, tokens or rows per second": round(without, 1), **memory}
        for kind, speed in zip(CLIENTS, speeds[1::2], strict=True):
            undisturbed, during = _percentiles(alone[kind]["latencies_s"]), _percentiles(beside[kind]["latencies_s"])
            figures[kind] = {
                "alone": undisturbed,
                "beside the job": during,
                "p99 over alone": round(during["p99_ms"] / undisturbed["p99_ms"], 2),
                "requests_per_s beside the job": round(len(beside[kind]["latencies_s"]) / beside[kind]["seconds"], 1),
                "failed": beside[kind]["failed"],
                "job, tokens or rows per second": round(speed, 1),
                "job kept": round(speed / without, 2),
                "device": device[kind],
            }
        return figures

    def _job_speed(self, handle: Any, meanwhile: Callable[[], Any]) -> float:
        done, start_s = _work_done(handle), time.perf_counter()
        meanwhile()
        return (_work_done(handle) - done) / (time.perf_counter() - start_s)

    def _device(self, handle: Any, before: dict[str, Any], elapsed_s: float) -> dict[str, Any]:
        """What the device of ours did since."""
        after = handle.describe.remote().result()["stats"]
        if "busy_s" not in after:
            return {}
        since = {
            name: {lane: after[name][lane] - before[name][lane] for lane in ("online", "batch")}
            for name in ("num_forwards", "num_entries", "busy_s")
        }
        return {
            lane: {
                "busy": round(since["busy_s"][lane] / elapsed_s, 2),
                "ms of a forward": round(1000 * since["busy_s"][lane] / max(1, since["num_forwards"][lane]), 1),
                "rows of a forward": round(since["num_entries"][lane] / max(1, since["num_forwards"][lane]), 1),
            }
            for lane in ("online", "batch")
        }

    def _job_speed_and(self, handle: Any, name: str, clients: Sequence[str]) -> tuple[dict[str, Any], float]:
        made: list[dict[str, Any]] = []
        speed = self._job_speed(handle, lambda: made.append(self._ask(name, self.short, *clients)))
        return made[0], speed

    def _ask(self, name: str, texts: Sequence[str], *options: str) -> dict[str, Any]:
        route = _route(name)
        seconds = [] if "--seconds" in options else ["--seconds", str(self.seconds)]
        command = [sys.executable, "-m", "benchmarks.http_load", f"http://127.0.0.1:{PORT}/{route}", *options, *seconds]
        ended = subprocess.run(command, input=json.dumps(list(texts)), capture_output=True, text=True, check=True)
        made: dict[str, Any] = json.loads(ended.stdout)
        print(f"{name:<14} {' '.join(options):<32} {_percentiles(made['latencies_s'])} {made['failed']}", flush=True)
        return made


def _groups(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (texts[start : start + size] for start in range(0, len(texts), size))


def _work_done(handle: Any) -> int:
    """Of the job on a replica: tokens, or rows where those are as long at one time as at another."""
    stats = handle.describe.remote().result()["stats"]
    return int(stats["cost"]["batch"] if "cost" in stats else stats["num_rows"])


def _percentiles(latencies_s: Sequence[float]) -> dict[str, float]:
    """The median, and what 1 % of the answers take longer than."""
    if not latencies_s:
        return {"p50_ms": float("nan"), "p99_ms": float("nan"), "count": 0}
    p50, p99 = np.percentile(latencies_s, [50, 99]) * 1000
    return {"p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2), "count": len(latencies_s)}


def _holding_mib() -> list[int]:
    """Memory of the processes of this cluster that have a model library loaded: replicas and workers."""
    held = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
            if command.startswith("ray::") and "libtorch_cpu" in (process / "maps").read_text():
                held.append(int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20)
    return sorted(held, reverse=True)


@contextlib.contextmanager
def _cluster(proxy: str) -> Iterator[Path]:
    os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "1" if proxy == "haproxy" else "0"
    os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "1")
    import ray
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="serve-", dir="/tmp") as scratch:
        os.environ.setdefault("RAY_SERVE_HAPROXY_SOCKET_PATH", f"{scratch}/admin.sock")
        ray.init(
            num_cpus=6,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            _temp_dir=f"{scratch}/ray",
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        serve.start(http_options={"port": PORT})
        try:
            yield Path(scratch)
        finally:
            serve.shutdown()
            ray.shutdown()


def _route(name: str) -> str:
    """A contender's name as part of an address."""
    return name.strip("@").replace(" ", "-").replace(".", "-")


@contextlib.contextmanager
def _deployed(name: str, application: Any) -> Iterator[Any]:
    from ray import serve

    route = _route(name)
    handle = serve.run(application, name=route, route_prefix=f"/{route}")
    try:
        yield handle
    finally:
        serve.delete(route)


if __name__ == "__main__":
    main()
