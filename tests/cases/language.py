"""Cases of text generation, zero-shot classification and question answering over tables and documents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.cases import Case
from tests.cases.media import TEXTS, image, images

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

GREEDY = {"do_sample": False, "max_new_tokens": 6}
# So many that a random model soon makes one of them.
END_TOKENS = list(range(60, 200))


def _short_texts() -> list[Any]:
    return [text[:40] for text in TEXTS]


def _texts_and_chats() -> list[Any]:
    question = {"role": "user", "content": "What is the name of the company?"}
    return [
        "a text between the chats",
        [question],
        [{"role": "system", "content": "Be short."}, question],
        [question, {"role": "assistant", "content": "The name"}],
        [{"role": "user", "content": "Hi"}],
        "",
    ]


def _generation(name: str, model: str, **parameters: Any) -> Case:
    return Case(name, "text-generation", model, _short_texts, {**GREEDY, **parameters}, bad_item=7)


TEXT_GENERATION = [
    *(_generation(model, model) for model in ("gpt2-lm", "gpt2-lm-no-pad", "llama-chat", "bart-lm", "rwkv-lm")),
    _generation("generate-beams", "llama-chat", num_beams=3, num_return_sequences=2),
    _generation("generate-new-text", "llama-chat", return_full_text=False, eos_token_id=END_TOKENS),
    _generation("generate-tokens", "gpt2-lm", return_tensors=True, stop_sequence=["e", " t"]),
    _generation("generate-tokens-no-pad", "gpt2-lm-no-pad", return_tensors=True, eos_token_id=END_TOKENS),
    _generation("generate-repetition-penalty", "llama-chat", repetition_penalty=1.5, skip_special_tokens=False),
    _generation("generate-prefix", "gpt2-lm", prefix="Once: ", clean_up_tokenization_spaces=True),
    Case(
        "generate-max-length",
        "text-generation",
        "llama-chat",
        _short_texts,
        {"do_sample": False, "max_length": 50, "min_length": 45},
        bad_item=[],
    ),
    Case("generate-chats", "text-generation", "llama-chat", _texts_and_chats, GREEDY, bad_item=[{"role": "user"}]),
    Case(
        "generate-chats-new-text",
        "text-generation",
        "llama-chat",
        _texts_and_chats,
        {**GREEDY, "return_full_text": False},
        bad_item=[{"content": "nobody"}],
    ),
    Case(
        "generate-hole",
        "text-generation",
        "gpt2-lm",
        lambda: [*_short_texts(), "The quick brown fox " * 12],
        {**GREEDY, "handle_long_generation": "hole"},
        bad_item=7,
    ),
]

TABLE = {
    "Repository": ["Transformers", "Datasets", "Tokenizers"],
    "Stars": ["36542", "4512", "3934"],
    "Language": ["Python", "Python", "Rust, Python and NodeJS"],
}


def _tables() -> list[Any]:
    queries = ["How many stars?", "Which language?", "What is the total of the stars?"]
    other = {"City": ["Paris", "Berlin", "London", "Rome"], "People": ["2", "3", "9", ""]}
    return [
        {"table": dict(TABLE), "query": queries[0]},
        {"table": dict(other), "query": "Which city has most people?"},
        {"table": dict(TABLE), "query": queries},
        {"table": dict(other), "query": [queries[1]]},
    ]


TABLES = [
    Case(name, "table-question-answering", "tapas-tableqa", _tables, parameters, bad_item={"table": {}, "query": "a"})
    for name, parameters in (
        ("tapas-tableqa", {}),
        ("table-sequential", {"sequential": True, "padding": "max_length"}),
        ("table-truncated", {"truncation": "drop_rows_to_fit"}),
    )
]


def _page(num_words: int, seed: int) -> list[tuple[str, list[int]]]:
    words = " ".join(TEXTS[2:]).split()
    return [
        (words[(seed + index) % len(words)], [20 * (index % 40), 30 * seed, 20 * (index % 40) + 15, 30 * seed + 20])
        for index in range(num_words)
    ]


def _pages() -> list[Any]:
    questions = ["What is the name?", "How much?", "Where does the fox jump to?", "Who?"]
    pages = [_page(num_words, seed) for seed, num_words in enumerate((5, 60, 17, 30))]
    return [{"question": question, "word_boxes": page} for question, page in zip(questions, pages, strict=True)]


def _pages_with_pictures() -> list[Any]:
    return [{**page, "image": picture} for page, picture in zip(_pages(), images(), strict=False)]


def _pictures() -> list[Any]:
    return [{"question": page["question"], "image": page["image"]} for page in _pages_with_pictures()]


def _document(name: str, items: Callable[[], list[Any]], model: str = "layoutlm-docqa", **parameters: Any) -> Case:
    reference = {key: value for key, value in parameters.items() if key != "max_question_len"}
    return Case(
        name,
        "document-question-answering",
        model,
        items,
        parameters,
        bad_item={"question": "Where?"},
        reference_parameters=reference,
    )


DOCUMENTS = [
    _document("layoutlm-docqa", _pages),
    _document("document-top-k", _pages, top_k=3, max_answer_len=4, handle_impossible_answer=True),
    _document("document-chunks", _pages, max_seq_len=24, doc_stride=4, max_question_len=30),
    _document("document-pictures-and-words", _pages_with_pictures),
    _document("document-donut", _pictures, model="donut-docqa"),
    # Without pictures, which transformers does not show to this model.
    _document("layoutlmv3-docqa", _pages, model="layoutlmv3-docqa", top_k=2),
]

QUESTIONS = {
    "refund": {"type": "noul", "instructions": "Is a refund requested?"},
    "tone": {
        "type": "choice",
        "instructions": "What is the tone?",
        "criteria": {"calm": "A polite text", "angry": None},
    },
    "urgency": {"type": "score", "instructions": "How urgent is it?", "criteria": ["Can wait", "Today", "Now"]},
}


def _requests() -> list[Any]:
    single = [{"state": "I was charged twice.", "questions": {name: QUESTIONS[name]}} for name in QUESTIONS]
    return [*single, {"state": {"message": "Please call me back!", "number": 3}, "questions": dict(QUESTIONS)}]


def _requests_with_pictures() -> list[Any]:
    similar = {"type": "noul", "instructions": "Is it like <other>?"}
    return [
        {"state": {"photo": "<photo>"}, "questions": dict(QUESTIONS), "assets": {"<photo>": image(size=(40, 30))}},
        {
            "state": "<photo>",
            "questions": {"similar": similar},
            "assets": {"<photo>": image(seed=1), "<other>": image("L", (20, 50), 2)},
        },
        {"state": "no picture", "questions": {"similar": similar}},
    ]


DECISIONS = [
    Case("decision", "decision", "llama-decision", _requests, bad_item={"state": "a", "questions": {}}),
    Case(
        "decision-pictures",
        "decision",
        "qwen2-vl",
        _requests_with_pictures,
        bad_item={"state": "a", "questions": dict(QUESTIONS), "assets": {"a": "/no/such/picture.png"}},
    ),
]

CASES = [*DECISIONS, *ZERO_SHOT, *TEXT_GENERATION, *TABLES, *DOCUMENTS]
