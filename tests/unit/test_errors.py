"""What a failed row leaves behind: its dead letter, and nothing else."""

from __future__ import annotations

import gc
import logging

import pytest

from ray_pipelines.errors import RowError, attempt


def fails() -> None:
    try:
        raise KeyError("first")
    except KeyError as error:
        raise ValueError("then") from error


def failed_rows(count: int) -> list[RowError]:
    rows = []
    for _ in range(count):
        row = attempt("forward", lambda: fails())
        assert isinstance(row, RowError)
        rows.append(row)
    return rows


def test_failed_rows_leave_nothing_to_the_garbage_collector() -> None:
    failed_rows(1)
    gc.collect()
    gc.disable()
    try:
        failed_rows(100)
        assert gc.collect() < 10
    finally:
        gc.enable()


def test_reason_stays_and_its_place_in_the_code_can_be_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="ray_pipelines.errors")
    (row,) = failed_rows(1)
    assert isinstance(row.__cause__, ValueError) and isinstance(row.__cause__.__cause__, KeyError)
    assert "in fails" in caplog.text
