"""Cases of the text, image and audio classification tasks, fill-mask and feature-extraction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.cases import Case
from tests.cases.media import TEXTS, images, sounds


def _texts() -> list[Any]:
    return list(TEXTS)


def _masked(mask: str) -> list[Any]:
    return [*(f"{text[:60]} {mask} end" for text in TEXTS), f"{mask} and {mask}"]


def _pairs() -> list[Any]:
    return [{"text": text[:20], "text_pair": other[:12]} for text, other in zip(TEXTS, reversed(TEXTS), strict=True)]


def _entities_of_words(folder: Path, words: list[str]) -> Any:
    import transformers

    pipe = transformers.pipeline("token-classification", model=str(folder), device="cpu")
    return pipe([words], is_split_into_words=True)[0]


CLASSIFIERS = (
    "bert-classifier",
    "roberta-classifier",
    "distilbert-multilabel",
    "bert-regression",
    "gpt2-classifier",
    "gpt2-classifier-no-pad",
    "deberta-classifier",
    "convbert-classifier",
    "fnet-classifier",
    "albert-classifier",
    "xlnet-classifier",
)

CASES = [
    *(Case(model, "text-classification", model, _texts, bad_item=None) for model in CLASSIFIERS),
    Case("text-pairs", "text-classification", "bert-classifier", _pairs, {"top_k": 2}),
    Case("text-all-labels", "text-classification", "bert-classifier", _texts, {"top_k": None}),
    Case("text-sigmoid", "text-classification", "bert-classifier", _texts, {"function_to_apply": "sigmoid"}),
    Case("text-truncated", "text-classification", "bert-classifier", lambda: ["so " * 500, "a"], {"truncation": True}),
    *(Case(model, "token-classification", model, _texts) for model in ("bert-ner", "roberta-ner", "distilbert-ner")),
    *(
        Case(f"ner-{strategy}", "token-classification", "bert-ner", _texts, {"aggregation_strategy": strategy})
        for strategy in ("simple", "first", "average", "max")
    ),
    Case(
        "ner-stride",
        "token-classification",
        "bert-ner",
        lambda: [*TEXTS, "Anna of Rome met Bob. " * 30],
        {"aggregation_strategy": "simple", "stride": 8},
    ),
    Case("ner-all-labels", "token-classification", "bert-ner", _texts, {"ignore_labels": []}),
    Case(
        "ner-words",
        "token-classification",
        "bert-ner",
        lambda: [text.split() for text in TEXTS],
        {"is_split_into_words": True},
        expected=_entities_of_words,
        bad_item="not a list",
    ),
    *(
        Case(model, "feature-extraction", model, _texts)
        for model in ("bert-features", "gpt2-features", "roberta-features", "fnet-features")
    ),
    *(
        Case(model, "fill-mask", model, lambda mask=mask: _masked(mask), bad_item="no mask")
        for model, mask in (("bert-mlm", "[MASK]"), ("roberta-mlm", "<mask>"), ("distilbert-mlm", "[MASK]"))
    ),
    Case("mask-targets", "fill-mask", "bert-mlm", lambda: _masked("[MASK]"), {"targets": ["a", "b"], "top_k": 5}),
    *(
        Case(model, "image-classification", model, images, bad_item=b"not an image")
        for model in ("vit-classifier", "convnext-classifier", "resnet-classifier", "swin-classifier", "vit-multilabel")
    ),
    *(
        Case(model, "audio-classification", model, sounds, bad_item=b"not a sound")
        for model in (
            "wav2vec2-classifier-mask",
            "wav2vec2-classifier-groupnorm",
            "ast-classifier",
            "hubert-classifier",
            "whisper-classifier",
        )
    ),
]
