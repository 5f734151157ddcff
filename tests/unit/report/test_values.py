"""Values in few words, whatever they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from rich.console import Console
from rich.table import Table

from ray_pipelines import tasks
from ray_pipelines.report.terminal import prediction_table, rows_to_print
from ray_pipelines.report.values import dimensions, generated_texts, one_line, scored
from tests.unit.report.test_html import value_of

HOSTILE = "[/b] [red]x[/] \x1b[2J\x07\n\r\u202e end"


def printed(table: Table) -> str:
    console = Console(width=200, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([{"label": "good", "score": 0.98765}, {"label": "bad", "score": 0.01235}], "good 0.988, bad 0.012"),
        ({"sequence": "a", "labels": ["x", "y"], "scores": [0.75, 0.25]}, "x 0.750, y 0.250"),
        (
            [{"word": "Ada", "entity": "PER", "score": 0.5}] * 5,
            "Ada · PER 0.500, Ada · PER 0.500, Ada · PER 0.500, 2 more",
        ),
        ([{"generated_text": "one"}, {"generated_text": "two"}], "one | two"),
        ({"text": "spoken", "chunks": []}, "spoken"),
        ([0.5] * 9, "[0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, … 9 values]"),
        (np.zeros(8000, dtype=np.float32), "0.5 s of audio"),
        (Image.new("L", (4, 3)), "picture, 4 × 3 pixels"),
        (b"1234", "4 bytes"),
        ("x" * 100, "x" * 69 + "…"),
        ([], "[]"),
        ([{"label": "a", "score": None}], "a"),
    ],
)
def test_values_are_one_short_line(value: Any, expected: str) -> None:
    assert one_line(value) == expected


def test_texts_of_users_are_neither_markup_nor_commands_of_a_terminal() -> None:
    shown = printed(prediction_table([{"text": HOSTILE, "prediction": [{"label": HOSTILE, "score": 0.5}]}]))
    assert shown.count("[/b] [red]x[/]") == 2
    assert not set(shown) & {"\x1b", "\x07", "\r", "\u202e"}


@pytest.mark.parametrize("name", tasks.names())
def test_results_of_every_task_are_one_line(name: str) -> None:
    task = tasks.get(name)
    assert task.result_type is not None
    line = one_line(value_of(task.result_type(task.parameters())))
    assert line and "\n" not in line and len(line) <= 70


def test_what_has_no_labels_or_texts_has_none() -> None:
    for value in (None, 1, "a", [], {}, [[1.0]], [{"box": {}}], [1, {"label": "a"}]):
        assert scored(value) is None
        assert generated_texts(value) is None
    assert dimensions([]) == "0"


def test_dates_that_python_has_not_are_shown_as_texts() -> None:
    days = pa.array([2_932_897, None], pa.int32()).cast(pa.date32())
    deep = pa.StructArray.from_arrays([days], ["day"])
    assert rows_to_print(pa.table({"day": days, "deep": deep, "n": [1, 2]})) == [
        {"day": "10000-01-01", "deep": "…", "n": 1},
        {"day": None, "deep": "…", "n": 2},
    ]
