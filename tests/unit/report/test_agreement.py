"""How far results agree with a reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ray_pipelines.errors import RowError
from ray_pipelines.report.agreement import Agreement, differences

ERROR = RowError("forward", "RowTooLarge", "too long")


def labels(**scores: float) -> list[dict[str, Any]]:
    return [{"label": label, "score": score} for label, score in scores.items()]


@pytest.mark.parametrize(
    ("result", "reference"),
    [
        ("a", "b"),
        (1, 2),
        (1, 1.0),
        (None, 0.5),
        (b"\x00", b"\x01"),
        ({"a": 1}, {"b": 1}),
        ({"a": 1}, {"a": 1, "b": 1}),
        ([1, 2], [1]),
        ([0.5], [0.5, 0.5]),
        (np.zeros((2, 2)), np.zeros((2, 3))),
        (np.zeros(2, dtype=int), np.ones(2, dtype=int)),
        (labels(a=0.6, b=0.4), labels(b=0.6, a=0.4)),
        (labels(a=0.6), []),
        (ERROR, "a"),
        (ERROR, RowError("forward", "ValueError", "too long")),
    ],
)
def test_anything_but_decimal_numbers_must_be_equal(result: Any, reference: Any) -> None:
    assert None in list(differences(result, reference))
    assert None not in list(differences(result, result))
    assert None not in list(differences(reference, reference))


def test_decimal_numbers_are_counted_by_their_largest_difference() -> None:
    mine = [[{"label": "a", "score": 0.5}], {"vector": np.array([0.0, 1.0])}, [0.25, 0.5], ERROR]
    theirs = [[{"label": "a", "score": 0.75}], {"vector": np.array([0.0, 0.5])}, [0.25, 0.5], ERROR]
    agreement = Agreement.of(mine, theirs)
    assert (agreement.num_rows, agreement.num_equal, agreement.max_difference) == (4, 4, 0.5)


def test_scores_are_compared_label_by_label() -> None:
    agreement = Agreement.of([labels(a=0.5, b=0.3, c=0.2)], [labels(a=0.5, c=0.3, b=0.2)])
    assert agreement.num_equal == 1
    assert agreement.max_difference == pytest.approx(0.1)


def test_a_row_of_another_label_is_not_equal() -> None:
    agreement = Agreement.of([labels(a=0.51), labels(b=0.9)], [labels(b=0.52), labels(b=0.9)])
    assert agreement.share_equal == 0.5


def test_not_a_number_agrees_with_itself_and_with_nothing_else() -> None:
    assert list(differences(math.nan, math.nan)) == [0.0]
    assert list(differences(np.array([math.nan, 1.0]), np.array([math.nan, 1.0]))) == [0.0]
    assert math.isnan(Agreement.of([math.nan], [1.0]).max_difference)
    assert math.isnan(Agreement.of([np.array([math.nan])], [np.array([1.0])]).max_difference)


def test_different_numbers_of_rows_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="longer"):
        Agreement.of([1], [1, 2])


def test_what_was_not_measured_says_why() -> None:
    agreement = Agreement.unknown("no memory")
    assert agreement.as_dict() == {"num_rows": 0, "reason": "no memory"}
    assert str(agreement) == "not measured: no memory"
