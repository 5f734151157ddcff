"""Records what transformers 4.57.6, the last release with them, gives for the text tasks that transformers 5 dropped.

The tiny models are built with this project's environment, the pipelines run with that of 4.57.6, at batch size 1:

    python -m tests.golden.record_text build FOLDER
    path/to/4.57.6/python -m tests.golden.record_text record FOLDER

`text.json` holds inputs, parameters and outputs of each case, and a fingerprint of each model's weights: the tests
build the models again, and must get the same.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).with_name("text.json")

LONG = (
    "Angela Merkel met Barack Obama in Berlin, Germany on Monday. The price rose by 3.5% to $1,250 in 2024 (up from "
    "$980 in 2023). Paris is the capital of France and London is the capital of England. I love this movie! It was "
    "really great, the best film I have seen in years. Please call me back at 10:30 or write to someone@example.com. "
)
QUESTIONS = [
    {"question": "Who met Barack Obama?", "context": "Angela Merkel met Barack Obama in Berlin, Germany on Monday."},
    {"question": "What is the capital?", "context": LONG},
    {"question": "How much?", "context": LONG * 3},
    {
        "question": "¿Qué comió el niño? 😀",
        "context": "El niño comió en el café; la façade était très élégante. 🚀 " * 4,
    },
    {
        "question": "日本語?",
        "context": "日本語の文章です。中文句子。 emoji 😀 🚀 and more 🎉. The quick brown fox jumps over it.",
    },
    {"question": "a?", "context": "The quick brown fox\tjumps  over\nthe lazy dog; the Fox, the FOX and the dog. " * 3},
]
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "a",
    "Paris is the capital of France and London is the capital of England. I love this movie!",
    "El niño comió en el café 😀",
    "",
    "What is the name of the company that John works for? He doesn't know.",
]
FEW = {"max_new_tokens": 10}
GREEDY = {"num_beams": 1, "max_new_tokens": 12}

QA = "question-answering"
CASES: list[tuple[str, str, str, list[Any], dict[str, Any]]] = [
    ("qa-bert", QA, "bert-qa", QUESTIONS, {}),
    ("qa-roberta", QA, "roberta-qa", QUESTIONS, {}),
    ("qa-distilbert", QA, "distilbert-qa", QUESTIONS, {}),
    ("qa-top-k", QA, "bert-qa", QUESTIONS, {"top_k": 4}),
    ("qa-roberta-top-k", QA, "roberta-qa", QUESTIONS, {"top_k": 3, "handle_impossible_answer": True}),
    ("qa-impossible", QA, "bert-qa", QUESTIONS, {"handle_impossible_answer": True}),
    ("qa-distilbert-impossible", QA, "distilbert-qa", QUESTIONS, {"handle_impossible_answer": True, "top_k": 30}),
    ("qa-stride", QA, "bert-qa", QUESTIONS, {"doc_stride": 5, "max_seq_len": 32, "top_k": 2}),
    ("qa-roberta-stride", QA, "roberta-qa", QUESTIONS, {"doc_stride": 0, "max_seq_len": 48, "top_k": 2}),
    ("qa-tokens", QA, "bert-qa", QUESTIONS, {"align_to_words": False, "top_k": 3}),
    ("qa-roberta-tokens", QA, "roberta-qa", QUESTIONS, {"align_to_words": False}),
    ("qa-answer-length", QA, "distilbert-qa", QUESTIONS, {"max_answer_len": 2, "top_k": 3}),
    ("junk-qa", QA, "bert-qa", [{"question": "Who?", "context": "Anna met Bob."}], {"top_k": 20}),
    ("qa-padding", QA, "bert-qa", QUESTIONS, {"padding": "max_length", "max_seq_len": 50}),
    ("text2text-t5", "text2text-generation", "t5-text2text", TEXTS, FEW),
    ("text2text-bart", "text2text-generation", "bart-text2text", TEXTS, FEW),
    ("text2text-t5-greedy", "text2text-generation", "t5-text2text", TEXTS, GREEDY),
    ("text2text-bart-greedy", "text2text-generation", "bart-text2text", TEXTS, GREEDY),
    ("text2text-default-length", "text2text-generation", "t5-text2text", TEXTS[:2], {}),
    ("text2text-max-length", "text2text-generation", "bart-text2text", TEXTS, {"max_length": 9, "min_length": 5}),
    ("text2text-sequences", "text2text-generation", "t5-text2text", TEXTS, {**FEW, "num_return_sequences": 3}),
    ("text2text-tensors", "text2text-generation", "bart-text2text", TEXTS, {**FEW, "return_tensors": True}),
    (
        "text2text-clean-up",
        "text2text-generation",
        "t5-text2text",
        TEXTS,
        {**FEW, "clean_up_tokenization_spaces": True},
    ),
    (
        "text2text-input-penalties",
        "text2text-generation",
        "t5-text2text",
        TEXTS,
        {**GREEDY, "encoder_repetition_penalty": 1.5, "encoder_no_repeat_ngram_size": 2},
    ),
    (
        "text2text-penalties",
        "text2text-generation",
        "bart-text2text",
        TEXTS,
        {**FEW, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "length_penalty": 2.0, "early_stopping": True},
    ),
    ("text2text-truncation", "text2text-generation", "bart-text2text", [LONG, "a"], {**FEW, "truncation": True}),
    ("summarization-t5", "summarization", "t5-text2text", TEXTS, FEW),
    ("summarization-bart", "summarization", "bart-text2text", TEXTS, {"max_length": 15, "min_length": 4}),
    ("translation-t5", "translation", "t5-text2text", TEXTS, FEW),
    ("translation-t5-en-fr", "translation_en_to_fr", "t5-text2text", TEXTS, FEW),
    ("translation-bart", "translation_en_to_de", "bart-text2text", TEXTS, FEW),
    ("translation-mbart", "translation", "mbart-translation", TEXTS, {**FEW, "src_lang": "en_XX", "tgt_lang": "fr_XX"}),
    (
        "translation-mbart-ro",
        "translation",
        "mbart-translation",
        TEXTS,
        {**GREEDY, "src_lang": "de_DE", "tgt_lang": "ro_RO"},
    ),
    (
        "translation-nllb",
        "translation",
        "nllb-translation",
        TEXTS,
        {**FEW, "src_lang": "eng_Latn", "tgt_lang": "fra_Latn"},
    ),
]
"""Name, task, model, items and parameters; the parameters are given when the pipeline is made.

Where 4.57.6 has a bug that is put right here, the name begins with "junk".
"""

MODELS = sorted({model for _, _, model, _, _ in CASES})


def fingerprint(folder: Path) -> float:
    """What tells two models of the same architecture apart: the mean size of their weights.

    Seeded weights differ in their last bits between processors, so this is compared with a tolerance.
    """
    import torch
    from safetensors.torch import load_file

    weights = load_file(Path(folder, "model.safetensors")).values()
    return float(torch.cat([weight.double().abs().flatten() for weight in weights]).mean())


def build(folder: Path) -> None:
    """Builds the models, with this project's environment."""
    from tests.tiny_models import build_model

    for name in MODELS:
        build_model(name, folder / name)


def _for_older(folder: Path, target: Path) -> None:
    """Copies a model so that 4.57.6 can read its tokenizer: a list of special tokens has another name there."""
    shutil.copytree(folder, target)
    file = target / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings["additional_special_tokens"] = settings.pop("extra_special_tokens", [])
    file.write_text(json.dumps(settings), encoding="utf-8")


def _plain(value: Any) -> Any:
    """A result as JSON can hold it."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return value.tolist() if hasattr(value, "tolist") else value


def record(folder: Path) -> None:
    """Runs the pipelines of transformers 4.57.6 and writes `text.json`."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    assert transformers.__version__ == "4.57.6", transformers.__version__
    copies = Path(tempfile.mkdtemp())
    for name in MODELS:
        _for_older(folder / name, copies / name)
    cases = []
    for name, task, model, items, parameters in CASES:
        pipe = transformers.pipeline(task, model=str(copies / model), device="cpu", **parameters)
        results = [pipe(**item) if isinstance(item, dict) else pipe(item) for item in items]
        expected = [_plain(result if isinstance(result, list) else [result]) for result in results]
        entry = {"name": name, "task": task, "model": model, "parameters": parameters, "items": items}
        cases.append({**entry, "expected": expected})
    shutil.rmtree(copies)
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    models = json.dumps({name: fingerprint(folder / name) for name in MODELS})
    text = f'{{"transformers": "{transformers.__version__}",\n"models": {models},\n"cases": [\n{lines}\n]}}\n'
    GOLDEN.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    {"build": build, "record": record}[sys.argv[1]](Path(sys.argv[2]))
