"""Hugging Face's own example of batching gone wrong, with every setting: every 64th text is 100 times longer.

    python -m benchmarks.mixture --quick        a few hundred rows
    python -m benchmarks.mixture                what the README quotes

The page (docs/transformers/main_classes/pipelines, "batching") has 5,000 rows and batch sizes 1, 8, 64 and 256, which
give 184, 266, 38 rows/s and a crash on a GPU. Here the same texts go through the MiniLM classifier, as
`transformers.pipeline` and this project's engine run them, at the same settings. What must hold: no setting crashes,
none is slower than batch size 1, and padding stays under 5 %.

`pipeline` pads every short text of a batch to the long one, and so is measured on fewer rows where that takes minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.common import alternate, bars, classifier, load, loop, medians, mixture, save, seconds_of

SIZES = (1, 8, 64, 256)
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "ray_pipelines, defaults": {},
    **{f"ray_pipelines, batch size {size}": {"batch_size": size} for size in SIZES},
    "ray_pipelines, budget 256": {"batch": {"budget": 256}},
    "ray_pipelines, budget 16,384": {"batch": {"budget": 16384}},
}


def main() -> None:
    """Measures the settings and writes results/mixture.json and plots/mixture.svg."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2560, help="rows of one measurement (default: 2,560)")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each setting (default: 1)")
    parser.add_argument("--quick", action="store_true", help="640 rows; figures are not written")
    parser.add_argument("--only", nargs="*", help="the contenders to measure, by the beginning of their names")
    arguments = parser.parse_args()
    rows = 640 if arguments.quick else arguments.rows
    padding: dict[str, float] = {}
    measures = contenders(rows, padding)
    if arguments.only:
        measures = {name: run for name, run in measures.items() if name.startswith(tuple(arguments.only))}
    found = medians(alternate(measures, arguments.rounds))
    best = max((speed for name, speed in found.items() if name.startswith("pipeline")), default=float("inf"))
    print(*(f"{speed:8.1f} rows/s  {name}" for name, speed in found.items()), sep="\n")
    print(f"defaults are {found.get('ray_pipelines, defaults', 0) / best:.2f} of the best pipeline")
    print("padding:", {name: f"{share:.1%}" for name, share in padding.items()})
    if not arguments.quick and not arguments.only:
        ratio = found["ray_pipelines, defaults"] / best
        save("mixture", {"rows": rows, "rows_per_s": found, "of the best pipeline": ratio, "padding": padding})
        title = "Every 64th text 100 times longer (MiniLM classifier, two CPU cores)"
        bars("mixture", title, found, "rows per second", list(SETTINGS))


def contenders(rows: int, padding: dict[str, float]) -> dict[str, Callable[[], float]]:
    """Name: a function that measures rows per second; `padding` is filled as they run."""
    from transformers import pipeline

    folder = classifier()
    model, tokenizer = load(folder)
    pipe = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    texts = mixture(rows)
    measures: dict[str, Callable[[], float]] = {}

    def of_pipeline(size: int) -> Callable[[], float]:
        some = mixture(min(rows, 256 if size >= 64 else 1280))
        return lambda: len(some) / seconds_of(lambda: pipe(some, batch_size=size, truncation=True))

    def of_engine(name: str, settings: Mapping[str, Any]) -> Callable[[], float]:
        import ray_pipelines as rp

        spec = rp.pipeline("text-classification", model=str(folder), device="cpu", truncation=True, **settings)
        spec.run(texts[:65])

        def measure() -> float:
            before = spec._runner().counters.copy()
            speed = len(texts) / seconds_of(lambda: spec.run(texts))
            made = spec._runner().counters.since(before)
            padding[name] = 1 - made.cost / made.padded_cost
            return speed

        return measure

    for size in SIZES:
        measures[f"pipeline, batch size {size}"] = of_pipeline(size)
    measures["sorted loop by hand, budget 1,024"] = lambda: (
        rows / seconds_of(lambda: loop(model, tokenizer, texts, max_tokens=512))
    )
    measures |= {name: of_engine(name, settings) for name, settings in SETTINGS.items()}
    return measures


if __name__ == "__main__":
    main()
