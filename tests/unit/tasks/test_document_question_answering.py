"""document-question-answering: pictures that count, OCR that is not needed, questions that are cut."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

import ray_pipelines as rp
from ray_pipelines.engine.transfer import pack, packed_bytes
from tests.cases.language import _page
from tests.cases.media import image
from tests.closeness import assert_close

Model = Callable[[str], str]
TASK = "document-question-answering"
WORDS = _page(12, 0)


def _row(**fields: Any) -> dict[str, Any]:
    return {"question": "What is the name?", "word_boxes": WORDS, **fields}


def test_layoutlmv3_sees_the_picture_where_transformers_does_not_show_it(model: Model) -> None:
    folder = model("layoutlmv3-docqa")
    rows = [_row(image=image(seed=seed)) for seed in (1, 2)]
    processor = transformers.AutoImageProcessor.from_pretrained(folder, apply_ocr=False)
    reference = transformers.pipeline(TASK, folder, image_processor=processor, device="cpu")
    assert reference(rows[0]) == reference(rows[1]), "transformers shows the picture now: the subclass can go"
    one, other = rp.pipeline(TASK, folder, device="cpu").run(rows, on_error="raise")
    assert one != other

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(
        rows[0]["question"], [w for w, _ in WORDS], boxes=[b for _, b in WORDS], return_tensors="pt", truncation=True
    )
    pixels = processor(images=rows[0]["image"], return_tensors="pt")
    with torch.no_grad():
        outputs = reference.model(**inputs, pixel_values=pixels["pixel_values"])
    (score,) = [answer["score"] for answer in one]
    length = inputs["input_ids"].shape[1]
    context = torch.tensor([index == 1 for index in inputs.sequence_ids()])
    context[0] = True
    start, end = (
        logits[0, :length].masked_fill(~context, -1e4).softmax(0)
        for logits in (outputs.start_logits, outputs.end_logits)
    )
    spans = torch.outer(start, end).triu().tril(14)
    assert score == pytest.approx(float(spans[1:, 1:].max()), abs=1e-5)


def test_pages_with_and_without_picture_and_of_any_length_run_in_batches(model: Model) -> None:
    rows = [_row(image=image(seed=1)), _row(), _row(word_boxes=_page(3, 1)), _row(word_boxes=_page(50, 2))]
    rows += [_row(image=image("L", (50, 20)), word_boxes=_page(50, 2))]
    single = rp.pipeline(TASK, model("layoutlmv3-docqa"), device="cpu", batch_size=1, top_k=2)
    batched = rp.pipeline(TASK, model("layoutlmv3-docqa"), device="cpu", batch_size=8, top_k=2)
    assert_close(batched.run(rows, on_error="raise"), single.run(rows, on_error="raise"))
    assert batched._runner().counters.num_forwards < single._runner().counters.num_forwards


def test_max_question_len_cuts_the_question_where_transformers_raises(model: Model) -> None:
    long = _row(question="What is the name of the company?")
    with pytest.raises(TypeError):
        transformers.pipeline(TASK, model("layoutlm-docqa"), device="cpu")(long, max_question_len=4)
    (cut,) = rp.pipeline(TASK, model("layoutlm-docqa"), device="cpu", max_question_len=4).run([long], on_error="raise")
    (short,) = rp.pipeline(TASK, model("layoutlm-docqa"), device="cpu").run([_row()], on_error="raise")
    assert_close(cut, short)


def test_words_come_from_ocr_where_a_row_has_none(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def image_to_data(picture: Any, **arguments: Any) -> dict[str, list[Any]]:
        calls.append(arguments)
        corners = {"left": [3, 6, 15], "top": [0, 3, 6], "width": [3, 0, 9], "height": [3, 0, 15]}
        return {"text": ["name", " ", "Bob"], **corners}

    fake = types.SimpleNamespace(image_to_data=image_to_data, TesseractNotFoundError=OSError)
    monkeypatch.setitem(sys.modules, "pytesseract", fake)
    spec = rp.pipeline(TASK, model("layoutlm-docqa"), device="cpu", lang="deu", tesseract_config="--psm 6")
    read = {"question": "Who?", "image": image(size=(30, 30))}
    brought = {"question": "Who?", "word_boxes": [("name", [100, 0, 200, 100]), ("Bob", [500, 200, 800, 700])]}
    one, other = spec.run([read, brought], on_error="raise")
    assert one == other
    assert calls == [{"lang": "deu", "output_type": "dict", "config": "--psm 6"}]


def test_without_ocr_only_rows_without_words_fail(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytesseract", None)
    spec = rp.pipeline(TASK, model("layoutlmv3-docqa"), device="cpu")
    good, bad = spec.run([_row(image=image()), {"question": "Who?", "image": image()}])
    assert len(good) == 1
    assert bad.type == "InvalidInput" and "pytesseract" in bad.message


def test_words_may_be_structs_or_pairs_and_a_page_may_have_none(model: Model) -> None:
    spec = rp.pipeline(TASK, model("layoutlm-docqa"), device="cpu")
    structs = [{"word": word, "box": [float(value) for value in box]} for word, box in WORDS]
    pairs, as_structs, empty = spec.run([_row(), _row(word_boxes=structs), _row(word_boxes=[])], on_error="raise")
    assert pairs == as_structs
    assert empty == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": " ", "word_boxes": WORDS}, "question: expected a question"),
        ({"question": "a"}, "expected at least one of them"),
        ({"question": "a", "word_boxes": [("w", [0, 0, 5])]}, r"word_boxes\[0\]: expected a box"),
        ({"question": "a", "word_boxes": [("w", [0, 0, 5, 1001])]}, "of 0 to 1000; got"),
        ({"question": "a", "word_boxes": [("w", [9, 0, 5, 10])]}, "x0 <= x1"),
        ({"question": "a", "word_boxes": ["w"]}, r"word_boxes\[0\]: expected a word and a box"),
    ],
)
def test_a_page_that_cannot_be_read_fails_alone(model: Model, row: Any, message: str) -> None:
    good, bad = rp.pipeline(TASK, model("layoutlm-docqa"), device="cpu").run([_row(), row])
    assert len(good) == 1
    assert isinstance(bad, rp.RowError)
    with pytest.raises(rp.RowError, match=message):
        raise bad


def test_only_spans_leave_a_chunk_and_words_go_with_the_first(model: Model) -> None:
    spec = rp.pipeline(TASK, model("layoutlm-docqa"), device="cpu", max_seq_len=48, doc_stride=8, top_k=2)
    steps = spec._runner().steps
    words = _page(300, 0)
    chunks = list(steps.preprocess({"question": "What is the name?", "word_boxes": words}))
    size = len(json.dumps([word for word, _ in words]))
    inputs = [packed_bytes(pack(chunk)) for chunk in chunks]
    outputs = [packed_bytes(pack(steps.forward(chunk))) for chunk in chunks]
    assert len(chunks) > 8
    assert max(inputs[1:]) < 16 * 48 + 100 and inputs[0] < 16 * 48 + 100 + size
    assert max(outputs[1:]) < 150 and outputs[0] < 150 + size


@pytest.mark.parametrize("name", ["layoutlm-docqa", "layoutlmv3-docqa"])
def test_spans_of_no_score_do_not_depend_on_the_batch(name: str, model: Model) -> None:
    row = {"question": "name", "word_boxes": [("Paris", [0, 0, 10, 10])]}
    spec = rp.pipeline(TASK, model(name), device="cpu", top_k=50)
    reference = transformers.pipeline(TASK, model(name), device="cpu")(row, top_k=50)
    for found in (spec.run([row])[0], spec.run([row, _row(word_boxes=_page(2, 0))])[0]):
        assert_close([answer["score"] for answer in found], [answer["score"] for answer in reference])


def test_fewer_answers_than_asked_for_are_those_of_transformers(model: Model) -> None:
    row = _row(word_boxes=_page(2, 0))
    reference = transformers.pipeline(TASK, model("layoutlm-docqa"), device="cpu")(row, top_k=60, max_answer_len=2)
    (result,) = rp.pipeline(TASK, model("layoutlm-docqa"), device="cpu", top_k=60, max_answer_len=2).run([row])
    assert 0 < len(result) < 60
    assert_close([answer["score"] for answer in result], [answer["score"] for answer in reference])


@pytest.mark.parametrize("name", ["layoutlm-docqa", "layoutlmv3-docqa"])
def test_chunks_may_not_overlap_by_nearly_all_of_them(name: str, model: Model) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(model(name))
    question = len(tokenizer.backend_tokenizer.encode("What?", add_special_tokens=False).ids)
    special = tokenizer.num_special_tokens_to_add(pair=True)
    page = [("page", [1, 2, 3, 4])] * 10_000
    parameters = {"max_seq_len": 64, "doc_stride": 64 - question - special - 5}
    rows = [{"question": "What?", "word_boxes": words} for words in (page, page[:100])]
    large, small = rp.pipeline(TASK, model(name), device="cpu", **parameters).run(rows)
    assert "overlap so much" in large.message and large.type == "InvalidInput"
    assert small[0]["answer"]


def test_a_panic_of_the_tokenizer_fails_one_row(model: Model) -> None:
    pipe = rp.pipeline(TASK, model("layoutlmv3-docqa"), device="cpu", doc_stride=60)
    (panicked,) = pipe.run([_row(word_boxes=_page(50, 2))])
    assert (panicked.stage, panicked.type) == ("preprocess", "PanicException")
