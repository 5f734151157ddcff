"""Cases of the text tasks that transformers 5 dropped: the recorded results of 4.57.6 are what must come out."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

from tests.cases import Case
from tests.golden.record_text import GOLDEN, QUESTIONS, TEXTS, fingerprint

RECORDED: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))


def _key(item: Any) -> str:
    return json.dumps(item, sort_keys=True)


def recorded(case: dict[str, Any], folder: Path, item: Any) -> Any:
    """The recorded result of an item, if the model is still the one it was recorded with."""
    expected = RECORDED["models"][case["model"]]
    assert math.isclose(fingerprint(folder), expected, rel_tol=1e-6), "built with other weights than those recorded"
    results = {_key(entry): result for entry, result in zip(case["items"], case["expected"], strict=True)}
    return results[_key(item)]


def _case(case: dict[str, Any]) -> Case:
    bad_item = {"question": "What?", "context": ""} if case["task"] == "question-answering" else None
    return Case(
        case["name"],
        case["task"],
        case["model"],
        partial(list, case["items"]),
        case["parameters"],
        expected=partial(recorded, case),
        bad_item=bad_item,
    )


def _languages() -> list[Any]:
    """Texts whose languages differ from row to row."""
    pairs = [("eng_Latn", "fra_Latn"), ("fra_Latn", "deu_Latn"), ("deu_Latn", "eng_Latn")]
    return [
        {"text": text, "src_lang": pairs[index % 3][0], "tgt_lang": pairs[index % 3][1]}
        for index, text in enumerate(TEXTS)
    ]


def _alone(folder: Path, item: dict[str, str]) -> Any:
    """The result of one row by a pipeline of its own, for its languages."""
    import transformers

    from ray_pipelines.engine import pipelines

    pipelines.register()
    pipe = transformers.pipeline("translation", model=str(folder), device="cpu", max_new_tokens=10)
    return pipe(item["text"], src_lang=item["src_lang"], tgt_lang=item["tgt_lang"])


CASES = [
    *(_case(case) for case in RECORDED["cases"] if not case["name"].startswith("junk")),
    Case("qa-xlnet", "question-answering", "xlnet-qa", partial(list, QUESTIONS), {"top_k": 3}),
    Case(
        "translation-languages-per-row",
        "translation",
        "nllb-translation",
        _languages,
        {"max_new_tokens": 10},
        expected=_alone,
        bad_item={"text": "Paris", "src_lang": "eng_Latn", "tgt_lang": "tlh"},
    ),
    Case("text2text-stop", "text2text-generation", "t5-text2text", partial(list, TEXTS), {"stop_sequence": "the"}),
]
