"""question-answering: the bugs of 4.57.6 that are put right, long questions, and the ways to call the pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

import ray_pipelines as rp
from ray_pipelines.engine import pipelines
from ray_pipelines.engine.pipelines._answer_spans import CLS, CONTEXT, NO_ANSWER, best_spans, probabilities
from ray_pipelines.engine.transfer import pack
from tests.cases.dropped_text import RECORDED
from tests.closeness import assert_close

Model = Callable[[str], str]
CONTEXT_TEXT = "Angela Merkel met Barack Obama in Berlin, Germany on Monday."


def packed_bytes(chunk: object) -> int:
    return sum(len(tensor["data"]) for tensor in pack(chunk))


def ask(model: str, item: dict[str, str], **parameters: object) -> object:
    (result,) = rp.pipeline("question-answering", model=model, device="cpu", **parameters).run([item])
    return result


def test_impossible_spans_do_not_fill_up_the_list(model: Model) -> None:
    (case,) = (case for case in RECORDED["cases"] if case["name"] == "junk-qa")
    (recorded,) = case["expected"]
    junk = [answer for answer in recorded if answer["score"] == 0]
    result = ask(model(case["model"]), case["items"][0], **case["parameters"])
    assert junk
    assert_close(result, [answer for answer in recorded if answer["score"] > 0])


def load(folder: str) -> transformers.Pipeline:
    pipelines.register()
    return transformers.pipeline("question-answering", model=folder, device="cpu")


def test_a_question_is_never_its_own_answer_where_padding_is_at_the_left(model: Model) -> None:
    pipe = load(model("xlnet-qa"))
    (chunk,) = pipe.preprocess({"question": "Who met Barack Obama?", "context": CONTEXT_TEXT})
    num_tokens = len(pipe.tokenizer(CONTEXT_TEXT, add_special_tokens=False)["input_ids"])
    kinds = chunk["p_mask"][0].tolist()
    assert kinds == [CONTEXT] * num_tokens + [NO_ANSWER] * (len(kinds) - num_tokens - 1) + [CLS]
    for answer in ask(model("xlnet-qa"), {"question": "Who?", "context": CONTEXT_TEXT}, top_k=9):
        assert answer["answer"] == CONTEXT_TEXT[answer["start"] : answer["end"]] != ""


def test_same_answers_of_several_chunks_add_up_and_stay_where_they_were_first(model: Model) -> None:
    pipe = load(model("bert-qa"))
    values: list[dict[str, Any]] = [
        {"spans": [[2, 5], [2, 3], [0, 1]], "scores": [0.25, 0.1, -1.0], "null_score": 0.5},
        {"spans": [[9, 12]], "scores": [0.5], "null_score": 0.3},
    ]
    chunks = [
        {"sentence": text, **{name: torch.tensor([value]) for name, value in chunk.items()}}
        for text, chunk in zip(("a dog, a Dog", ""), values, strict=True)
    ]
    expected = {"score": 0.75, "start": 2, "end": 5, "answer": "dog"}
    assert_close(pipe.postprocess(chunks), expected)
    none = {"score": 0.3, "start": 0, "end": 0, "answer": ""}
    assert_close(pipe.postprocess(chunks, top_k=2, handle_impossible_answer=True), [expected, none])


def test_only_spans_leave_a_chunk_whose_inputs_are_small(model: Model) -> None:
    steps = rp.pipeline("question-answering", model=model("bert-qa"), device="cpu")._runner().steps
    item = {"question": "Who met Barack Obama?", "context": " ".join([CONTEXT_TEXT] * 150)}
    chunks = list(steps.preprocess(item))
    size = len(item["context"])
    inputs = [packed_bytes(chunk) for chunk in chunks]
    num_tokens = chunks[0]["input_ids"].shape[1]
    assert len(chunks) > 20 and size > 9000
    assert max(inputs[1:]) <= 12 * num_tokens + 100 and inputs[0] <= 12 * num_tokens + 100 + size
    outputs = [packed_bytes(steps.forward(chunk)) for chunk in chunks]
    assert max(outputs[1:]) < 600 and outputs[0] < 600 + size


@pytest.mark.parametrize("context", ["b", "Paris", "the company"])
@pytest.mark.parametrize("top_k", [1, 5, 50])
def test_a_context_shorter_than_an_answer_may_be_has_the_answers_that_there_are(
    context: str, top_k: int, model: Model
) -> None:
    item = {"question": "What is the name", "context": context}
    spec = rp.pipeline("question-answering", model=model("bert-qa"), device="cpu", top_k=top_k)
    (alone,) = spec.run([item], on_error="raise")
    beside, _ = spec.run([item, {"question": "Who?", "context": CONTEXT_TEXT}], on_error="raise")
    assert_close(alone, beside)
    assert all(answer["answer"] for answer in (alone if isinstance(alone, list) else [alone]))


def test_max_question_len_cuts_the_question(model: Model) -> None:
    long = "Obama met Obama met Obama met Berlin"
    cut = ask(model("bert-qa"), {"question": long, "context": CONTEXT_TEXT}, max_question_len=3)
    assert_close(cut, ask(model("bert-qa"), {"question": "Obama met Obama", "context": CONTEXT_TEXT}))


def test_a_question_without_room_for_its_context_fails_by_name(model: Model) -> None:
    spec = rp.pipeline("question-answering", model=model("bert-qa"), device="cpu")
    short, long = {"question": "Who?", "context": CONTEXT_TEXT}, {"question": "a " * 40, "context": CONTEXT_TEXT * 9}
    results = spec.run([short, long, short])
    assert isinstance(results[1], rp.RowError)
    assert "question: has 40 tokens, which leave 21 of a chunk's 64" in results[1].message
    assert results[0] == results[2]


def test_chunks_of_a_long_context_do_not_overlap_by_nearly_all_of_them(model: Model) -> None:
    spec = rp.pipeline("question-answering", model=model("bert-qa"), device="cpu")
    (result,) = spec.run([{"question": "a " * 28, "context": "a b c d " * 5_000}])
    assert isinstance(result, rp.RowError)
    assert "question: leaves 1 of a chunk's 64 tokens" in result.message and "which has 20,000" in result.message


def test_a_long_question_beside_a_short_context_is_fine(model: Model) -> None:
    assert ask(model("bert-qa"), {"question": "a " * 40, "context": "a b c"})


@pytest.mark.parametrize("name", ["question", "context"])
@pytest.mark.parametrize("value", ["", "  ", None, 3])
def test_what_is_no_text_is_named(model: Model, name: str, value: object) -> None:
    result = ask(model("bert-qa"), {"question": "Who?", "context": CONTEXT_TEXT, name: value})
    assert isinstance(result, rp.RowError) and f"{name}: " in result.message


def test_overlap_must_be_smaller_than_a_chunk() -> None:
    with pytest.raises(rp.ConfigError, match=r"doc_stride: expected less than max_seq_len \(32\); got 32"):
        rp.pipeline("question-answering", model="org/nothing", doc_stride=32, max_seq_len=32)


def test_the_pipeline_takes_all_the_forms_that_it_took(model: Model) -> None:
    pipe = load(model("bert-qa"))
    item = {"question": "Who?", "context": CONTEXT_TEXT}
    answer = pipe(item)
    assert isinstance(answer, dict)
    assert pipe([item]) == pipe(**item) == pipe("Who?", CONTEXT_TEXT) == answer
    assert pipe([item, item]) == pipe(question=["Who?", "Who?"], context=CONTEXT_TEXT) == [answer, answer]
    assert list(pipe(entry for entry in [item])) == [answer]
    assert len(pipe(item, top_k=3)) == 3
    assert_close(pipe([item, {**item, "context": "Bob met Anna. " * 20}], batch_size=4)[0], answer)
    with pytest.raises(ValueError, match="expected one, or one per question"):
        pipe(question=["Who?"], context=["a", "b"])
    with pytest.raises(ValueError, match="expected both"):
        pipe(question="Who?")
    with pytest.raises(TypeError, match="has no parameter top_q"):
        pipe(item, top_q=3)


def test_best_spans_are_in_order_and_within_bounds() -> None:
    start, end = torch.rand(2, 1, 12, generator=torch.Generator().manual_seed(0))
    can_answer = torch.tensor([[False, False] + [True] * 9 + [False]])
    spans = spans_of(best_spans(start, end, can_answer, 1000, 3))
    expected = [
        (first, last, float(start[0, first] * end[0, last]))
        for first in range(2, 11)
        for last in range(first, min(first + 3, 11))
    ]
    assert sorted(spans) == sorted(expected)
    assert [score for *_, score in spans] == sorted((score for *_, score in spans), reverse=True)
    assert spans_of(best_spans(start, end, can_answer, 4, 3)) == spans[:4]
    assert spans_of(best_spans(start, end, torch.zeros_like(can_answer), 5, 300)) == []


def spans_of(found: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> list[tuple[int, int, float]]:
    return [span for span in zip(*(values[0].tolist() for values in found), strict=True) if span[2] >= 0]


def test_of_equal_spans_the_earlier_comes_first() -> None:
    even = torch.full((1, 30), 1 / 30)
    spans = spans_of(best_spans(even, even, torch.ones(1, 30, dtype=torch.bool), 40, 3))
    assert [span[:2] for span in spans] == [(first, first + more) for first in range(14) for more in range(3)][:40]


def test_padding_changes_no_span() -> None:
    logits = torch.randn(2, 1, 20, generator=torch.Generator().manual_seed(0))
    kinds = torch.tensor([[CLS] + [NO_ANSWER] * 4 + [CONTEXT] * 14 + [NO_ANSWER]])
    alone = probabilities(*logits, kinds)
    padded = torch.nn.functional.pad(logits, (0, 13), value=9.0)
    together = probabilities(*padded, torch.nn.functional.pad(kinds, (0, 13), value=NO_ANSWER))
    assert_close([float(alone[2])], [float(together[2])])
    one = spans_of(best_spans(*alone[:2], kinds == CONTEXT, 50, 15))
    other = spans_of(best_spans(*together[:2], torch.nn.functional.pad(kinds, (0, 13), value=1) == CONTEXT, 50, 15))
    assert_close(one, other)


def test_the_share_of_the_first_special_token_is_the_null_score() -> None:
    kinds = torch.tensor([[CLS, NO_ANSWER, CONTEXT]])
    start, end, null_score = probabilities(torch.tensor([[0.0, 9.0, 0.0]]), torch.tensor([[0.0, 9.0, 0.0]]), kinds)
    assert float(null_score) == pytest.approx(0.25)
    assert start[0, 1] == end[0, 1] == 0
