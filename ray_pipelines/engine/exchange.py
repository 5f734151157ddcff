"""What a batch job and a process that has a pipeline say to each other: rows there, typed results back.

    job ── RowBatch ──► replica        fields as Arrow columns; the job's parameters, seed and limits travel along
        ◄─ RowAnswers ─                results and errors as Arrow columns, of those rows that it came to

A message is answered in a bounded time: what a replica has not come to by then, it hands back, and the job sends it
again. So a replica that is to go away never has more than a few seconds of a job's work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from ray_pipelines.arrow import errors_to_arrow, results_to_arrow
from ray_pipelines.engine.counters import Counters
from ray_pipelines.media.limits import MediaLimits

__all__ = ["RowAnswers", "RowBatch"]


@dataclass(frozen=True)
class RowBatch:
    """Rows of a job that another process is to run.

    Attributes:
        task: The job's task.
        identity: Fingerprint of the model that the job was begun with (`identity.py`); no other may answer.
        parameters: The job's parameters.
        seed: With a row's content, the seed of that row.
        limits: What decoding a row's media may cost.
        num_rows: How many rows.
        columns: A column for each field that a row brings as Arrow has it.
        constants: Fields that all rows share.
        values: Row: fields that Arrow's column does not hold, such as a picture that was fetched.
        is_alone: These rows are suspected of killing processes: no other rows of jobs may be at work beside them.
    """

    task: str
    identity: str
    parameters: Mapping[str, Any]
    seed: int
    limits: MediaLimits
    num_rows: int
    columns: pa.Table
    constants: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    is_alone: bool = False

    @property
    def num_bytes(self) -> int:
        """About how many bytes a message of these rows has."""
        values = (value for row in self.values.values() for value in row.values())
        return int(self.columns.nbytes) + sum(_size(value) for value in values)

    def fields(self, row: int) -> dict[str, Any]:
        """Field: value of one row."""
        own = {name: self.columns[name][row].as_py() for name in self.columns.column_names}
        return {**self.constants, **own, **self.values.get(row, {})}

    def take(self, rows: Sequence[int], is_alone: bool) -> RowBatch:
        """Some of the rows, in this order."""
        columns = self.columns.take(pa.array(rows, type=pa.int64())) if self.columns.num_columns else self.columns
        return replace(
            self,
            num_rows=len(rows),
            columns=columns,
            values={index: self.values[row] for index, row in enumerate(rows) if row in self.values},
            is_alone=is_alone,
        )


@dataclass(frozen=True)
class RowAnswers:
    """What became of rows.

    Attributes:
        rows: The rows that were run, by their places in the message; the others are handed back.
        results: Their results, of the task's Arrow type; null where a row failed.
        errors: Their errors, of `arrow.ERROR_TYPE`; null where it did not.
        counters: What they have cost.
    """

    rows: Sequence[int]
    results: pa.Array | pa.ChunkedArray
    errors: pa.Array | pa.ChunkedArray
    counters: Counters

    @classmethod
    def of(cls, results: Mapping[int, Any], result_type: pa.DataType, counters: Counters) -> RowAnswers:
        """The answers with these results or `RowError`s, by row."""
        rows = sorted(results)
        column, errors = results_to_arrow([results[row] for row in rows], result_type)
        return cls(rows, column, errors_to_arrow(errors), counters)


def _size(value: Any) -> int:
    if isinstance(value, bytes | bytearray | str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_size, value))
    return int(getattr(value, "nbytes", 8))
