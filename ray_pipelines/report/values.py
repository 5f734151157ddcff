"""Values of rows and results in few words, for a terminal's tables and a report's cards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["AUDIO_RATE", "as_text", "cut", "dimensions", "generated_texts", "one_line", "scored"]

AUDIO_RATE = 16_000
MAX_CHARS = 70
MAX_SCORED = 3
SHOWN_ITEMS = 8


def one_line(value: Any, max_chars: int = MAX_CHARS) -> str:
    """A value in one line: texts cut, labels with their scores, pictures by size, recordings by length.

    What a terminal would take for a command is left out.

    >>> one_line([{"label": "good", "score": 0.98765}])
    'good 0.988'
    >>> one_line([{"entity_group": "PER", "score": 0.9912, "word": "Ada", "start": 0, "end": 3}])
    'Ada · PER 0.991'
    >>> one_line([0.25, 0.5, 0.75])
    '[0.25, 0.5, 0.75]'
    """
    text = " ".join("".join(char if char.isprintable() else " " for char in _in_words(value)).split())
    return cut(text, max_chars)


def cut(text: str, max_chars: int) -> str:
    """The text, or its beginning where it is longer."""
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def _in_words(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{len(value) / AUDIO_RATE:.1f} s of audio" if value.ndim == 1 else f"array {value.shape}"
    if hasattr(value, "size") and hasattr(value, "mode"):
        return f"picture, {value.size[0]} × {value.size[1]} pixels"
    labels = scored(value)
    if labels:
        more = f", {len(labels) - MAX_SCORED} more" if len(labels) > MAX_SCORED else ""
        return ", ".join(_with_score(*label) for label in labels[:MAX_SCORED]) + more
    texts = generated_texts(value)
    if texts:
        return " | ".join(texts)
    if isinstance(value, list) and value and isinstance(value[0], float):
        more = f", … {len(value):,} values" if len(value) > SHOWN_ITEMS else ""
        return f"[{', '.join(f'{number:.3g}' for number in value[:SHOWN_ITEMS])}{more}]"
    return as_text(value)


def _with_score(text: str, score: float | None) -> str:
    return text if score is None else f"{text} {score:.3f}"


def scored(value: Any) -> list[tuple[str, float | None]] | None:
    """Labels, answers, words or masks of a result, each with its score, best as the task has them.

    None where it has no such.
    """
    if isinstance(value, Mapping) and isinstance(value.get("labels"), list) and "scores" in value:
        return [(str(label), float(score)) for label, score in zip(value["labels"], value["scores"], strict=True)]
    if not isinstance(value, list) or not value or not all(isinstance(item, Mapping) for item in value):
        return None
    names = ("label", "answer", "word", "token_str")
    name = next((name for name in names if value[0].get(name) is not None), None)
    if name is None and "mask" not in value[0]:
        return None
    found = []
    for item in value:
        score, group = item.get("score"), item.get("entity_group") or item.get("entity")
        text = str(item.get(name)) if name else "mask"
        found.append((f"{text} · {group}" if group else text, None if score is None else float(score)))
    return found


def generated_texts(value: Any) -> list[str] | None:
    """The texts of a result of generation or recognition; None where it has none."""
    items = value if isinstance(value, list) else [value]
    if not items or not isinstance(items[0], Mapping):
        return None
    for name in ("generated_text", "summary_text", "translation_text", "text"):
        texts = [item[name] for item in items if isinstance(item, Mapping) and isinstance(item.get(name), str)]
        if len(texts) == len(items):
            return texts
    return None


def as_text(value: Any) -> str:
    """A value as text: JSON, without what is long."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    return json.dumps(_plain(value), ensure_ascii=False, default=str)


def _plain(value: Any) -> Any:
    """`value` without what is long: bytes as their number, lists cut, numbers rounded."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value[:SHOWN_ITEMS]] + (["…"] if len(value) > SHOWN_ITEMS else [])
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    return round(value, 4) if isinstance(value, float) else value


def dimensions(value: Any) -> str:
    """The lengths of nested lists.

    >>> dimensions([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    '3 × 2'
    """
    sizes = []
    while isinstance(value, list):
        sizes.append(f"{len(value):,}")
        value = value[0] if value else None
    return " × ".join(sizes)
