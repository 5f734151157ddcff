"""What a run says when Ray gives up."""

from __future__ import annotations

import pytest

import ray_pipelines as rp
from ray_pipelines.data.execute import job_error

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
