"""Cases of text generation, zero-shot classification and question answering over tables and documents."""

from __future__ import annotations

from typing import Any

from tests.cases import Case
from tests.cases.media import TEXTS

LABELS = ["sport", "politics", "science and art", "film"]


def _texts() -> list[Any]:
    return list(TEXTS)


ZERO_SHOT = [
    Case("zero-shot", "zero-shot-classification", "bert-nli", _texts, {"candidate_labels": LABELS}, bad_item=""),
    Case(
        "zero-shot-multi-label",
        "zero-shot-classification",
        "bert-nli",
        _texts,
        {"candidate_labels": "sport, film", "multi_label": True, "hypothesis_template": "It is about {}!"},
        bad_item={"text": "a", "candidate_labels": []},
    ),
    Case(
        "zero-shot-one-label",
        "zero-shot-classification",
        "bert-nli",
        lambda: [*TEXTS, "a long text " * 60],
        {"candidate_labels": ["sport"]},
        bad_item=7,
    ),
]

CASES = [*ZERO_SHOT]
