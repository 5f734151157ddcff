"""What is concluded from the notes of processes that died."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow as pa
import pytest

from ray_pipelines.data.journal import Journal, batch_key

DIES = """
import os, signal, sys
from pathlib import Path
from ray_pipelines.data.journal import Journal
with Journal.open(Path(sys.argv[1]), "batch") as journal:
    {notes}
    os.kill(os.getpid(), signal.SIGKILL)
"""


def die(folder: Path, notes: str) -> None:
    program = textwrap.dedent(DIES).format(notes=notes)
    assert subprocess.run([sys.executable, "-c", program, str(folder)], check=False).returncode == -signal.SIGKILL


def test_rows_that_died_together_are_suspects_and_a_row_that_died_alone_twice_is_deadly(tmp_path: Path) -> None:
    die(tmp_path, 'journal.begin(1, "preprocess", [0]); journal.end(1); journal.begin(1, "forward", [3, 4, 5])')
    with Journal.open(tmp_path, "batch") as journal:
        assert sorted(journal.records) == [3, 4, 5]
        assert all(record.verdict(None) is None for record in journal.records.values())
    die(tmp_path, 'journal.begin(1, "forward", [3, 4, 5])')
    for _ in range(2):
        die(tmp_path, 'journal.begin(1, "forward", [4])')
    with Journal.open(tmp_path, "batch") as journal:
        verdicts = {row: record.verdict(None) for row, record in journal.records.items()}
        assert [row for row, verdict in verdicts.items() if verdict] == [4]
        assert (verdicts[4].stage, verdicts[4].type) == ("forward", "WorkerKilled")


def test_row_whose_time_was_up_while_it_was_alone_is_not_tried_again(tmp_path: Path) -> None:
    die(tmp_path, 'journal.begin(1, "decode", [2]); journal.time_is_up(1)')
    with Journal.open(tmp_path, "batch") as journal:
        error = journal.records[2].verdict(7)
        assert error is not None
        assert (error.stage, error.type) == ("decode", "RowTimeout")
        assert "7 s" in error.message


def test_rows_of_two_threads_are_all_suspects(tmp_path: Path) -> None:
    die(tmp_path, 'journal.begin(1, "preprocess", [7]); journal.begin(2, "forward", [2])')
    with Journal.open(tmp_path, "batch") as journal:
        assert {row: record.num_deaths for row, record in journal.records.items()} == {7: 0, 2: 0}


def test_death_between_two_steps_is_nobodys_fault(tmp_path: Path) -> None:
    die(tmp_path, 'journal.begin(1, "forward", [1]); journal.end(1)')
    with Journal.open(tmp_path, "batch") as journal:
        assert journal.records == {}


def test_rows_touched_last_are_blamed_for_a_lost_device(tmp_path: Path) -> None:
    die(tmp_path, 'journal.begin(1, "forward", [1]); journal.end(1); journal.blame_last()')
    with Journal.open(tmp_path, "batch") as journal:
        assert journal.records[1].num_deaths == 1


def test_notes_of_the_living_are_left_alone_and_none_are_left_behind(tmp_path: Path) -> None:
    with Journal.open(tmp_path, "batch") as first:
        first.begin(1, "forward", [1])
        with Journal.open(tmp_path, "batch") as second:
            assert second.records == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [1, 5000])
def test_batches_are_told_apart_by_their_content(size: int) -> None:
    def table(last: str) -> pa.Table:
        return pa.table({"text": [f"{row}" * size for row in range(300)] + [last]})

    assert batch_key(table("a"), "fused") == batch_key(pa.concat_tables([table("a")]), "fused")
    assert batch_key(table("a"), "fused") == batch_key(table("a").slice(0), "fused")
    assert len({batch_key(table("a"), "fused"), batch_key(table("b"), "fused"), batch_key(table("a"), "x")}) == 3
