"""What a run says when Ray gives up, and of what it has written."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyroaring import BitMap64

import ray_pipelines as rp
from ray_pipelines.data.execute import files_of, job_error
from ray_pipelines.data.folder import Folder
from ray_pipelines.data.inventory import Inventory
from ray_pipelines.data.output import Output
from ray_pipelines.data.resume import Commit, Ledger, OutputFile
from ray_pipelines.data.run_state import Run
from tests.unit.data.test_run_state import RECORD

TASK = "ray.exceptions.RayTaskError({}): ray::Read->SplitBlocks(2)() (pid=1, ip=192.0.2.2)"
CODE = """  File "/lib/arrow.py", line 1, in cast
    self.kind: pa.DataType = call("cast")
"""
ADVICE = """Failed to apply UDF transform after 1/1 attempts (total backoff 0.0s).
To change retry attempts, configure `ray.data.DataContext.get_current()` (`retried_io_errors` for I/O) if you believe
this to be transient.
"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            f"{TASK.format('ArrowInvalid')}\n{CODE}pyarrow.lib.ArrowInvalid: no int64\n{ADVICE}",
            "ArrowInvalid: no int64",
        ),
        (f"{TASK.format('Broken')}\n{CODE}Broken: it is\n{ADVICE}", "Broken: it is"),
        (
            f"{TASK.format('X')}\n{CODE}own.module.Odd: a\nray.exceptions.UserCodeException: UDF failed",
            "own.module.Odd: a",
        ),
        (f"{TASK.format('X')}\n{CODE}ValueError: a\n\nDuring handling:\n\nKeyError: 'b'", "KeyError: 'b'"),
        (f"{TASK.format('X')}\n{CODE}ray_pipelines.errors.JobError: out: is full", "out: is full"),
        (f"{TASK.format('X')}\n{CODE}ray_pipelines.errors.StorageError: out: is full", "out: is full"),
        (f"{TASK.format('X')}\n{CODE}ray_pipelines.errors.InvalidInput: is odd", "InvalidInput: is odd"),
        ("The node died.", "The node died."),
        ("", "Ray gave no reason"),
    ],
)
def test_the_reason_is_the_line_that_names_the_innermost_exception(text: str, reason: str) -> None:
    error = job_error(RuntimeError(text))
    assert type(error) is (rp.StorageError if "errors.StorageError" in text else rp.JobError)
    assert str(error).endswith(reason) and "\n" not in str(error)


@pytest.mark.parametrize("kind", ["results", "dead_letters"])
def test_files_that_vanish_while_a_run_writes_are_not_in_its_manifest(kind: str, tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    run = Run(Output(folder), RECORD, Inventory("parquet", (), ()), Ledger(folder))
    names = {name: f"{name}/part-b-0.parquet" for name in ("results", "dead_letters")}
    for name in names.values():
        folder.write(name, b"some bytes")
    results, letters = ((OutputFile(name, 1, 10),) for name in names.values())
    run.ledger.add(Commit(BitMap64([0, 1]), 1, results, letters))
    files, sizes = files_of(run)
    assert files == {name: [path] for name, path in names.items()} and sizes.keys() == set(names.values())
    folder.remove([names[kind]])
    with pytest.raises(
        rp.JobError, match=rf"1 file\(s\) in .* gone .*such as {names[kind]}\. .* run the same job again"
    ):
        files_of(run)
    assert Ledger.read(folder, "b").num_rows == 0
