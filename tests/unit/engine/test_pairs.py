"""Pairs of tokens are those of the tokenizer, which sees each text once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

import ray_pipelines as rp
from ray_pipelines.engine.pipelines._pairs import PairTokenizer
from ray_pipelines.engine.transfer import pack

Model = Callable[[str], str]
HYPOTHESES = [f"This is about {'very ' * (index % 4)}number {index}." for index in range(100)]
MODELS = (
    "bert-nli",
    "roberta-classifier",
    "xlnet-classifier",
    "deberta-classifier",
    "gpt2-classifier",
    "albert-classifier",
)


class Counting:
    """A tokenizer that notes the texts that it is asked for."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.texts: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: Any, *others: Any, **arguments: Any) -> Any:
        self.texts += text if isinstance(text, list) else [text]
        return self._tokenizer(text, *others, **arguments)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", MODELS)
def test_pairs_are_those_of_the_tokenizer_also_where_they_are_cut(name: str, side: str, model: Model) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(model(name), truncation_side=side, model_max_length=40)
    pairs = PairTokenizer(tokenizer)
    for text in ("Bob met Anna in Rome.", "a [SEP] </s> <sep> b", " ", "Anna of Rome met Bob, again and again. " * 20):
        made = pairs(text, HYPOTHESES[:8])
        expected = tokenizer([[text, other] for other in HYPOTHESES[:8]], truncation="only_first")
        assert [pair.keys() for pair in made] == [expected.keys()] * 8
        assert {key: [pair[key][0].tolist() for pair in made] for key in expected} == dict(expected)


def test_where_a_hypothesis_alone_is_too_long_no_pair_is_cut(model: Model) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(model("bert-nli"), model_max_length=20)
    pairs = PairTokenizer(tokenizer)
    for _ in range(2):
        made = pairs("a b c d e f", ["short", "long " * 30])
        expected = tokenizer([["a b c d e f", "short"], ["a b c d e f", "long " * 30]], truncation=False)
        assert [pair["input_ids"][0].tolist() for pair in made] == expected["input_ids"]


def test_a_text_is_tokenised_once_and_the_hypotheses_once_for_all_texts(model: Model) -> None:
    tokenizer = Counting(transformers.AutoTokenizer.from_pretrained(model("bert-nli")))
    pairs = PairTokenizer(tokenizer)
    pairs("the first text is tokenised again to be sure", HYPOTHESES)
    tokenizer.texts.clear()
    for text in ("one text", "another text"):
        assert len(pairs(text, HYPOTHESES)) == 100
    assert tokenizer.texts == ["one text", "another text"]


def test_a_tokenizer_that_joins_texts_in_a_way_of_its_own_does_it_itself(model: Model) -> None:
    class Own(Counting):
        def __call__(self, text: Any, *others: Any, **arguments: Any) -> Any:
            encoded = super().__call__(text, *others, **arguments)
            if isinstance(text, list) and isinstance(text[0], list):
                encoded["input_ids"] = [[*ids[:-1], 5, ids[-1]] for ids in encoded["input_ids"]]
            return encoded

    pairs = PairTokenizer(Own(transformers.AutoTokenizer.from_pretrained(model("bert-nli"))))
    for _ in range(2):
        assert [int(pair["input_ids"][0, -2]) for pair in pairs("a text", ["one", "two"])] == [5, 5]


def test_a_label_costs_a_few_hundred_bytes_and_gives_back_two_numbers(model: Model) -> None:
    spec = rp.pipeline("zero-shot-classification", model("bert-nli"), device="cpu", candidate_labels=HYPOTHESES)
    steps = spec._runner().steps
    chunks = list(steps.preprocess("Anna of Rome met Bob. " * 8))
    num_tokens = max(chunk["input_ids"].shape[1] for chunk in chunks)
    packed = [sum(len(tensor["data"]) for tensor in pack(chunk)) for chunk in chunks]
    assert max(packed) < 4 * num_tokens + 100
    output = steps.forward(chunks[0])
    assert output.keys() == {"candidate_label", "logits"}
    assert output["logits"].shape == (1, 2) and output["logits"].dtype == torch.float32
