"""Steps that never come back: interrupted from within, or ended with their process."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ray_pipelines.data.journal import Journal, batch_key
from ray_pipelines.data.watchdog import Watchdog
from ray_pipelines.errors import RowError, attempt

TABLE = pa.table({"n": range(4)})


def steps(watchdog: Watchdog, rows: Sequence[int], hangs: int | None = None) -> Iterator[Any]:
    def step(row: int) -> int:
        while row == hangs:
            pass
        return row * row

    for place, row in enumerate(rows):
        yield attempt("preprocess", partial(watchdog.run, "preprocess", [place], partial(step, row)))


def test_row_that_hangs_in_python_fails_alone_and_the_worker_lives(tmp_path: Path) -> None:
    watchdog = Watchdog(0.5, tmp_path)
    for _ in range(2):
        results = watchdog.results(TABLE, "fused", lambda rows: steps(watchdog, rows, hangs=2))
        assert [results[0], results[1], results[3]] == [0, 1, 9]
        assert (results[2].stage, results[2].type) == ("preprocess", "RowTimeout")
        assert "0.5 s" in results[2].message
    assert watchdog.results(TABLE, "fused", lambda rows: steps(watchdog, rows)) == [0, 1, 4, 9]


def test_deadly_rows_are_not_run_and_suspects_run_alone_before_the_others(tmp_path: Path) -> None:
    runs: list[list[int]] = []

    def run(rows: Sequence[int]) -> list[int]:
        runs.append(list(rows))
        return [row * row for row in rows]

    with pytest.raises(KeyboardInterrupt), Journal.open(tmp_path, batch_key(TABLE, "fused")) as journal:
        journal.begin(1, "forward", [1, 2, 3])
        copy = journal.path.read_bytes()
        raise KeyboardInterrupt
    journal.path.write_bytes(copy)
    assert Watchdog(None, tmp_path).results(TABLE, "fused", run) == [0, 1, 4, 9]
    assert runs == [[1], [2], [3], [0]]


HANGS = """
import re, sys, time
from pathlib import Path
import pyarrow as pa
from ray_pipelines.data.watchdog import Watchdog
watchdog = Watchdog(0.5, Path(sys.argv[1]))
def run(rows):
    for place, row in enumerate(rows):
        yield watchdog.run("preprocess", [place], (lambda: {code}) if row == 2 else (lambda: row))
print(watchdog.results(pa.table({{"n": range(4)}}), "fused", run))
"""
IN_NATIVE_CODE = {"without-python": "time.sleep(1000)", "with-python": "re.match('(a+)+$', 'a' * 60 + 'b')"}


@pytest.mark.parametrize("code", IN_NATIVE_CODE.values(), ids=IN_NATIVE_CODE)
def test_row_that_hangs_in_native_code_ends_its_process_and_the_next_one_knows_it(code: str, tmp_path: Path) -> None:
    program = textwrap.dedent(HANGS).format(code=code)
    first = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, check=False)
    assert first.returncode == 1
    second = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    error = RowError("preprocess", "RowTimeout", "row: takes longer than 0.5 s in this step (workers.timeout_s).")
    assert second.stdout.strip() == repr([0, 1, error, 3]), second.stderr
