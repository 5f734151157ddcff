"""What a failed row leaves behind: its dead letter, and nothing else."""

from __future__ import annotations

import gc
import logging
import signal
import sys

import pytest

from ray_pipelines.arrow import errors_to_arrow
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


def test_an_exit_in_the_middle_of_a_row_is_its_failure_and_that_of_the_process_is_not() -> None:
    row = attempt("forward", lambda: sys.exit(3))
    assert isinstance(row, RowError) and row.message == "row: its step calls for the end of the process, sys.exit(3)."

    def ended_by_ray() -> None:
        error = SystemExit(1)
        error.ray_terminate_msg = "SIGTERM"  # type: ignore[attr-defined]
        raise error

    with pytest.raises(SystemExit):
        attempt("forward", ended_by_ray)


def test_a_panic_of_a_library_in_rust_is_the_failure_of_a_row_and_an_interrupt_is_not() -> None:
    panic = type("PanicException", (BaseException,), {})

    def fail(error: BaseException) -> None:
        raise error

    made = attempt("preprocess", lambda: fail(panic("called `Option::unwrap()` on a `None` value")))
    assert isinstance(made, RowError) and made.type == "PanicException"
    with pytest.raises(KeyboardInterrupt):
        attempt("preprocess", lambda: fail(KeyboardInterrupt()))


def test_a_program_that_ends_by_its_own_handler_of_signals_does_so_in_the_middle_of_a_row() -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with pytest.raises(SystemExit):
            attempt("forward", lambda: signal.raise_signal(signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, before)


class Speechless(Exception):
    """An exception that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "message"), [(Speechless(), "Speechless"), (ValueError("half of \ud83d"), "half of \\ud83d")]
)
def test_whatever_an_exception_says_can_be_stored(error: Exception, message: str) -> None:
    def fails() -> None:
        raise error

    row = attempt("decode", fails)
    assert isinstance(row, RowError) and row.message == message
    assert errors_to_arrow([row]).to_pylist()[0]["message"] == message
