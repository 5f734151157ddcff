"""What each saving is worth: the MiniLM classifier over docstrings, against itself in float32.

    python -m benchmarks.savings --quick
    python -m benchmarks.savings --rounds 3     what the README quotes; add --compile for minutes of warm-up more

Each setting runs in this process, without Ray, so that all see the same machine in turn. Agreement is that of the
report: labels that are equal, and the largest difference of a score. The classifier's head is random, so that many
texts are close to the border between its labels: real heads agree more.

`ragged` is what `packed` is for: batches of 32 rows as they come, unsorted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.common import MAX_TOKENS, alternate, bars, classifier, docstrings, load, loop, medians, save, seconds_of

RAGGED: Mapping[str, Any] = {"max_size": 32, "window_rows": 32, "budget": 32 * MAX_TOKENS}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"optimize": {"int8": True}},
    "packed": {"optimize": {"packed": True}},
    "packed, int8": {"optimize": {"packed": True, "int8": True}},
    "packed, bfloat16": {"optimize": {"packed": True}, "dtype": "bfloat16"},
    "ragged float32": {"batch": RAGGED},
    "ragged packed": {"batch": RAGGED, "optimize": {"packed": True}},
}
COMPILED: Mapping[str, Mapping[str, Any]] = {
    "compile": {"optimize": {"compile": True}},
    "compile, bfloat16": {"optimize": {"compile": True}, "dtype": "bfloat16"},
}


def main() -> None:
    """Measures the settings and writes results/savings.json and plots/savings.svg."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256, help="texts of one measurement (default: 256)")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each setting (default: 1)")
    parser.add_argument("--quick", action="store_true", help="64 texts; no plot")
    parser.add_argument("--compile", action="store_true", help="compiled graphs too, which take minutes to warm up")
    parser.add_argument("--only", nargs="*", help="the settings to measure, by the beginning of their names")
    arguments = parser.parse_args()
    texts = docstrings(64 if arguments.quick else arguments.rows)
    settings = {**SETTINGS, **(COMPILED if arguments.compile else {})}
    if arguments.only:
        settings = {name: each for name, each in settings.items() if name.startswith(tuple(arguments.only))}
    agreement: dict[str, Mapping[str, Any]] = {}
    measures = {name: _measure(name, each, texts, agreement) for name, each in settings.items()}
    model, tokenizer = load(classifier())
    by_hand = {"loop by hand, float32": lambda: len(texts) / seconds_of(lambda: loop(model, tokenizer, texts))}
    found = medians(alternate({**by_hand, **measures}, arguments.rounds))
    base = found.get("float32", 0) or found["loop by hand, float32"]
    for name, speed in found.items():
        rows = agreement.get(name)
        same = f"labels equal {rows['share_equal']:.1%}, scores within {rows['max_difference']}" if rows else ""
        print(f"{speed:8.1f} rows/s  {speed / base:5.2f}  {name:<24} {same}")
    save("savings", {"rows": len(texts), "rows_per_s": found, "agreement": agreement})
    if not arguments.quick and not arguments.only:
        title = "Docstrings, MiniLM classifier: savings (two CPU cores)"
        bars("savings", title, found, "rows per second", list(settings))


def _measure(
    name: str, settings: Mapping[str, Any], texts: list[str], agreement: dict[str, Mapping[str, Any]]
) -> Callable[[], float]:
    """A function that measures rows per second; `agreement` is filled at its first call, after a warm-up."""
    import ray_pipelines as rp

    spec = rp.pipeline(
        "text-classification", str(classifier()), device="cpu", truncation=True, max_length=MAX_TOKENS, **settings
    )

    def measure() -> float:
        if name not in agreement:
            agreement[name] = spec.agreement(texts[:64]).as_dict()
        return len(texts) / seconds_of(lambda: spec.run(texts))

    return measure


if __name__ == "__main__":
    main()
