"""What a terminal is spared of what Ray writes to it."""

from __future__ import annotations

import os

import pytest

from ray_pipelines.report.terminal import filtered_stderr


def test_lines_that_mislead_are_taken_out(capfd: pytest.CaptureFixture[str]) -> None:
    with filtered_stderr() as console:
        os.write(2, b"(raylet) Task ServeController.graceful_shutdown failed. There are infinite retries\n")
        os.write(2, b"waiting for room\n")
        console.print("from the console")
    assert set(capfd.readouterr().err.splitlines()) == {"waiting for room", "from the console"}
