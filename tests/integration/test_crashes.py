"""The short form of `tests/crash/crashes.py`: a driver, a worker and a raylet die, and every row is there once."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.crashes import run_round

Model = Callable[[str], str]


@pytest.mark.timeout(600)
def test_every_row_is_there_once_after_kills(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="crash-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        run_round(2, random.Random(3), Path(folder, "round"), model("bert-classifier"), None, 750)
    assert "raylet, driver" in capsys.readouterr().out
