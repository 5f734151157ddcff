"""decision: questions of the task and of each row, in the forms that a column may hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import transformers

import ray_pipelines as rp
from tests.cases.language import QUESTIONS

Model = Callable[[str], str]
STATE = "I was charged twice."


def test_questions_of_the_task_are_asked_of_all_rows_where_transformers_refuses_them(model: Model) -> None:
    folder = model("llama-decision")
    rows = [STATE, {"state": STATE, "questions": {"other": QUESTIONS["refund"]}}, {"state": {"n": 1}}]
    spec = rp.pipeline("decision", folder, device="cpu", questions=QUESTIONS)
    results = spec.run(rows, on_error="raise")
    assert [[answer["question"] for answer in result] for result in results] == [
        ["refund", "tone", "urgency"],
        ["other"],
        ["refund", "tone", "urgency"],
    ]
    assert results[1][0]["noul"] == pytest.approx(results[0][0]["noul"])
    with pytest.raises(TypeError):
        transformers.pipeline("decision", folder, device="cpu")(STATE, questions=QUESTIONS)


def test_questions_may_be_json_pairs_or_structs_with_nulls(model: Model) -> None:
    tone = {"tone": QUESTIONS["tone"]}
    refund = {"refund": QUESTIONS["refund"]}
    forms: list[tuple[Any, Any]] = [
        (tone, json.dumps(tone)),
        (tone, list(tone.items())),
        (refund, {"refund": {**QUESTIONS["refund"], "criteria": None}, "tone": None}),
    ]
    spec = rp.pipeline("decision", model("llama-decision"), device="cpu")
    for plain, form in forms:
        rows = [{"state": STATE, "questions": questions} for questions in (plain, form)]
        one, other = spec.run(rows, on_error="raise")
        assert one == other


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        (None, "neither for this row nor as a parameter"),
        ("{", "questions: expected JSON"),
        ([1], "expected {name: question} or its JSON; got list"),
        ({"a": {"type": "guess"}}, "questions: type: Input should be"),
        ({"a": {"type": "choice"}}, "criteria: expected options for a question of type choice"),
        ({"a": {"type": "score", "criteria": {"low": 1}}}, "criteria: expected a list of levels"),
    ],
)
def test_a_row_that_cannot_be_asked_fails_alone(model: Model, questions: Any, message: str) -> None:
    spec = rp.pipeline("decision", model("llama-decision"), device="cpu")
    rows = [{"state": STATE, "questions": {"refund": QUESTIONS["refund"]}}, {"state": STATE, "questions": questions}]
    good, bad = spec.run(rows)
    assert len(good) == 1
    assert isinstance(bad, rp.RowError)
    with pytest.raises(rp.RowError, match=message):
        raise bad


def test_a_question_that_cannot_be_asked_is_refused_before_anything_loads() -> None:
    with pytest.raises(rp.ConfigError, match=r"questions\.a"):
        rp.pipeline("decision", "org/model", questions={"a": {"type": "choice"}})
