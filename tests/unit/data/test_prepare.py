"""OCR as a stage of its own: words in a hidden column, and results as without it."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

import ray_pipelines as rp
from ray_pipelines.data.prepare import prepare_table
from ray_pipelines.data.workers import PipelineWorker, WorkerSetup
from ray_pipelines.engine.pipelines import document_question_answering
from ray_pipelines.tasks.document_question_answering import words_type
from tests.cases.media import image, png
from tests.unit.data.test_workers import setup_of

Model = Callable[[str], str]
TASK = "document-question-answering"
OWN = [{"word": "name", "box": [100, 0, 200, 100]}, {"word": "Eve", "box": [500, 200, 800, 700]}]
READ = [{"word": "name", "box": [100, 0, 200, 100]}, {"word": "Bob", "box": [500, 200, 800, 700]}]


@pytest.fixture
def ocr_calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []

    def image_to_data(picture: Any, **arguments: Any) -> dict[str, list[Any]]:
        calls.append(arguments)
        corners = {"left": [3, 6, 15], "top": [0, 3, 6], "width": [3, 0, 9], "height": [3, 0, 15]}
        return {"text": ["name", " ", "Bob"], **corners}

    fake = types.SimpleNamespace(image_to_data=image_to_data, TesseractNotFoundError=OSError)
    # Transformers, which looks for the real one when it is imported, has been imported by now.
    assert document_question_answering.__name__ in sys.modules
    monkeypatch.setitem(sys.modules, "pytesseract", fake)
    return calls


def pages() -> pa.Table:
    """Rows with a picture, with words too, with a broken picture, and with nothing."""
    picture = png(image(size=(30, 30)))
    return pa.table(
        {
            "my_question": ["Who?"] * 4,
            "my_image": [picture, picture, b"no picture", None],
            "my_word_boxes": pa.array([None, OWN, None, None]),
        }
    )


def prepared_setup(setup: WorkerSetup) -> WorkerSetup:
    return dataclasses.replace(setup, prepared={"word_boxes": "__words"}, dropped_columns=("__words",))


def test_rows_without_words_are_read_once_and_the_results_are_the_same(
    model: Model, ocr_calls: list[dict[str, Any]]
) -> None:
    table = pages()
    spec = rp.pipeline(TASK, model("layoutlm-docqa"), device="cpu", lang="deu", tesseract_config="--psm 6")
    setup = setup_of(spec, table.column_names)
    expected = PipelineWorker(setup)(table)
    assert len(ocr_calls) == 1

    prepared = prepare_table(table, setup)
    assert ocr_calls == [{"lang": "deu", "output_type": "dict", "config": "--psm 6"}] * 2
    assert prepared.schema.field("__words").type == words_type()
    assert prepared["__words"].to_pylist() == [READ, None, None, None]
    output = PipelineWorker(prepared_setup(setup))(prepared)
    assert len(ocr_calls) == 2, "the later stage read the picture again"
    assert output.equals(expected)
    assert [error is None for error in output["error"].to_pylist()] == [True, True, False, False]


def test_without_ocr_a_row_fails_as_it_does_in_one_stage(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytesseract", None)
    table = pages()
    setup = setup_of(rp.pipeline(TASK, model("layoutlm-docqa"), device="cpu"), table.column_names)
    output = PipelineWorker(prepared_setup(setup))(prepare_table(table, setup))
    assert output.equals(PipelineWorker(setup)(table))
    assert "pytesseract" in output["error"][0].as_py()["message"]


def test_a_model_that_reads_pictures_needs_no_words(model: Model, ocr_calls: list[dict[str, Any]]) -> None:
    table = pages().drop_columns(["my_word_boxes"])
    setup = setup_of(rp.pipeline(TASK, model("donut-docqa"), device="cpu"), table.column_names)
    assert prepare_table(table, setup)["__words"].null_count == table.num_rows
    assert ocr_calls == []
