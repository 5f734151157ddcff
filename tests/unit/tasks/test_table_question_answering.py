"""table-question-answering: tables of all forms, and questions that cannot be asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import transformers

import ray_pipelines as rp
from ray_pipelines.tasks.table_question_answering import to_item
from tests.cases.language import TABLE

Model = Callable[[str], str]
TASK = "table-question-answering"
QUERY = "How many stars?"


def _forms() -> list[Any]:
    rows = pd.DataFrame(TABLE).to_dict("records")
    as_map = pa.array([list(TABLE.items())], pa.map_(pa.string(), pa.list_(pa.string()))).to_pylist()[0]
    numbers = {**TABLE, "Stars": [int(cell) for cell in TABLE["Stars"]]}
    return [TABLE, rows, pd.DataFrame(TABLE, index=[7, 8, 9]), as_map, numbers, pa.array([TABLE]).to_pylist()[0]]


def test_all_forms_of_a_table_give_the_same_answer(model: Model) -> None:
    spec = rp.pipeline(TASK, model("tapas-tableqa"), device="cpu")
    results = spec.run([{"table": table, "query": QUERY} for table in _forms()], on_error="raise")
    assert all(result == results[0] for result in results)


def test_cells_are_written_as_text_whatever_else_stands_in_their_column() -> None:
    rows = [{"a": 1, "b": "x"}, {"a": None, "b": ["y", "z"]}, {"b": 2.5}]
    frame = to_item({"table": rows, "query": "a"})["table"]
    assert frame.to_dict("list") == {"a": ["1", "", ""], "b": ["x", "['y', 'z']", "2.5"]}


def test_the_callers_table_stays_as_it_is(model: Model) -> None:
    row = {"table": dict(TABLE), "query": QUERY}
    rp.pipeline(TASK, model("tapas-tableqa"), device="cpu").run([row], on_error="raise")
    assert row == {"table": TABLE, "query": QUERY}
    transformers.pipeline(TASK, model("tapas-tableqa"), device="cpu")(row)
    assert isinstance(row["table"], pd.DataFrame)


@pytest.mark.parametrize("sequential", [False, True])
def test_a_model_in_bfloat16_answers(model: Model, sequential: bool) -> None:
    spec = rp.pipeline(TASK, model("tapas-tableqa"), device="cpu", dtype="bfloat16", sequential=sequential)
    (result,) = spec.run([{"table": TABLE, "query": [QUERY, QUERY]}], on_error="raise")
    assert len(result) == 2


def test_a_table_that_is_cut_otherwise_for_each_of_sequential_questions_is_named(model: Model) -> None:
    table = {"a": ["Transformers", "Datasets", "Tokenizers"], "b": ["36542", "4512", "3934"], "c": ["x", "x", "x, y"]}
    queries = ["How many of all of them are there, or were there?", "Which one?", "Why?"]
    spec = rp.pipeline(TASK, model("tapas-tableqa"), device="cpu", sequential=True)
    bad, good = spec.run([{"table": table, "query": queries}, {"table": table, "query": "Why?"}])
    assert "is cut to other rows for each question" in bad.message
    assert isinstance(good, list)


def test_a_table_may_have_more_tokens_than_the_model_has_positions(model: Model) -> None:
    arguments = {"truncation": False}
    row = {"table": {"a": ["a word"] * 40, "b": ["1"] * 40}, "query": QUERY}
    (result,) = rp.pipeline(TASK, model("tapas-tableqa"), device="cpu", **arguments).run([row], on_error="raise")
    theirs = transformers.pipeline(TASK, model("tapas-tableqa"), device="cpu")(dict(row), **arguments)
    assert result[0]["answer"] == theirs["answer"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"table": TABLE, "query": ""}, "query: expected a question"),
        ({"table": TABLE, "query": ["a", " "]}, "query: expected a question"),
        ({"table": TABLE, "query": []}, "query: expected a question"),
        ({"table": TABLE, "query": [3]}, "query: expected a string; got int"),
        ({"table": {"a": [], "b": []}, "query": "a"}, "table: expected rows"),
        ({"table": {"": [" "]}, "query": "a"}, "table: expected text in a header or a cell"),
        ({"table": {"a": ["1"], "b": ["1", "2"]}, "query": "a"}, "columns of equal length; got a: 1, b: 2"),
        ({"table": {"a": "one"}, "query": "a"}, "a list of cells for each column"),
        ({"table": "a,b", "query": "a"}, "table: expected columns .* got str"),
        ({"table": TABLE}, "query: is required"),
    ],
)
def test_a_row_that_cannot_be_asked_fails_alone(model: Model, row: Any, message: str) -> None:
    spec = rp.pipeline(TASK, model("tapas-tableqa"), device="cpu")
    good, bad = spec.run([{"table": TABLE, "query": QUERY}, row])
    assert good[0]["answer"] is not None
    assert isinstance(bad, rp.RowError) and bad.type == "InvalidInput"
    with pytest.raises(rp.RowError, match=message):
        raise bad
