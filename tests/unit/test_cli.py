"""The command line without a process of its own."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from ray_pipelines import cli


@pytest.mark.parametrize("name", ["check", "plan", "run"])
def test_ctrl_c_ends_a_command_with_its_own_status(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "read_job", interrupt)
    ended = CliRunner().invoke(cli.app, [name, "job.yaml"])
    assert ended.exit_code == cli.EXIT_INTERRUPTED
    assert "Interrupted." in ended.output


def test_first_steps_fit_into_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(cli.app, ["--help"]).output
    steps = [line.strip() for line in cli.FIRST_STEPS.splitlines() if line.startswith("  ray-pipelines")]
    assert len(steps) >= 4
    assert [step for step in steps if step not in shown] == []
