"""What every reader shares: the unit of work, and the parts of a table that it yields."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import pyarrow as pa

from ray_pipelines.data.files import SourceFile
from ray_pipelines.errors import InvalidInput, RowError, attempt

__all__ = ["Part", "Reader", "Unit", "batched", "conform", "numbered_lines"]

SAMPLE_ROWS = 1000


@dataclass(frozen=True)
class Unit:
    """A part of the input that one task reads.

    Attributes:
        file: The file.
        first_row: Position of its first row in the file.
        num_rows: Its rows, or None where only reading tells.
        row_groups: For Parquet: the row groups; None for the whole file.
    """

    file: SourceFile
    first_row: int = 0
    num_rows: int | None = None
    row_groups: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Part:
    """Some rows of a unit, as a reader yields them.

    Attributes:
        table: The rows; a row that could not be read is null.
        positions: Where each row is in its file; None if they follow the part before.
        errors: Why a row could not be read, else None; None for no errors at all.
    """

    table: pa.Table
    positions: Sequence[int] | None = None
    errors: Sequence[RowError | None] | None = None


class Reader(Protocol):
    """How one format is read; each format is a module of this package with these three functions."""

    def sample_schema(self, file: SourceFile) -> pa.Schema:
        """The columns and types of a file, from its first rows."""

    def units(self, file: SourceFile) -> list[Unit]:
        """The parts of a file that tasks read."""

    def read(self, unit: Unit, schema: pa.Schema, rows_per_table: int) -> Iterator[Part]:
        """The rows of a unit, in order, with exactly the columns of `schema`."""


def numbered_lines(stream: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines with something in them, and their numbers, from 0."""
    for number, line in enumerate(stream):
        stripped = line.rstrip(b"\r\n")
        if number == 0:
            stripped = stripped.removeprefix(b"\xef\xbb\xbf")
        if stripped.strip():
            yield number, stripped


def batched(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of at most `size` of `values`, in order."""
    iterator = iter(values)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def conform(
    values: Any,
    column: pa.Field,
    errors: list[RowError | None],
    convert: Callable[[Any, pa.DataType], pa.Array],
) -> pa.Array:
    """The values in the column's type; a value that does not fit is null, and its row's error is noted in `errors`."""
    try:
        return convert(values, column.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        pass
    fitting: list[Any] = []
    for row, value in enumerate(values):
        one = attempt("read", partial(convert, [value], column.type))
        if isinstance(one, RowError):
            got = f"{type(value).__name__}" if not isinstance(value, str) else repr(value[:40])
            wrong = InvalidInput(f"{column.name}: expected {column.type}; got {got}.")
            errors[row] = errors[row] or RowError.from_exception("read", wrong)
            fitting.append(None)
        else:
            fitting.append(one[0].as_py())
    return pa.array(fitting, type=column.type)
