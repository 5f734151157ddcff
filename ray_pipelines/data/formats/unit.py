"""What every reader shares: the unit of work, the parts that it yields, lines, and values that do not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import pyarrow as pa

from ray_pipelines.data.files import SourceFile
from ray_pipelines.errors import InvalidInput, RowError, attempt
from ray_pipelines.storage import FilesystemConfig

__all__ = ["Part", "Reader", "Unit", "batched", "check_encoding", "conform", "first_of", "numbered_lines"]

SAMPLE_ROWS = 1000
PART_BYTES = 64 << 20
"""Bytes of one part, where a reader knows the size of its rows."""
MAX_LINE_BYTES = 256 << 20
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")
SHOWN_CHARS = 40
"""Characters of a value that does not fit, in the reason."""


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
        left_out: Names of values that a row has and the table lacks, as no sampled row had them; None for none at all.
    """

    table: pa.Table
    positions: Sequence[int] | None = None
    errors: Sequence[RowError | None] | None = None
    left_out: Sequence[AbstractSet[str]] | None = None

    def with_left_out(self, names: AbstractSet[str]) -> Part:
        """The part, of which every row that could be read has values of these names that the table lacks."""
        if not names:
            return self
        errors = self.errors or [None] * self.table.num_rows
        return replace(self, left_out=[frozenset() if error else names for error in errors])


class Reader(Protocol):
    """How one format is read; each format is a module of this package with these three functions.

    What they raise concerns the whole file from there on: it becomes one dead letter in the place of the next row.
    """

    def sample_schema(self, file: SourceFile, filesystem: FilesystemConfig) -> pa.Schema:
        """The columns and types of a file, from its first rows; of type null where these do not tell."""

    def units(self, file: SourceFile, filesystem: FilesystemConfig) -> list[Unit]:
        """The parts of a file that tasks read."""

    def read(self, unit: Unit, schema: pa.Schema, rows_per_table: int, filesystem: FilesystemConfig) -> Iterator[Part]:
        """The rows of a unit, in order, with the columns of `schema`."""


def check_encoding(start: bytes) -> None:
    """Refuses the start of a file whose mark says that it is in UTF-16 or UTF-32: most bytes of it would pass as UTF-8.

    Raises:
        InvalidInput: It says so.
    """
    if start.startswith(UTF16_MARKS):
        raise InvalidInput("the file is in UTF-16 or UTF-32; expected UTF-8. Convert it: iconv -f utf-16 -t utf-8.")


def numbered_lines(stream: Any) -> Iterator[tuple[int, bytes | RowError]]:
    """The lines with something in them, and their numbers, from 0; an endless line is an error.

    Raises:
        InvalidInput: The file is not in UTF-8.
    """
    number = 0
    while line := stream.readline(MAX_LINE_BYTES):
        if number == 0:
            check_encoding(line)
        content = line.rstrip(b"\r\n")
        stripped: bytes | RowError = content.removeprefix(b"\xef\xbb\xbf") if number == 0 else content
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = stream.readline(MAX_LINE_BYTES)
            stripped = RowError("read", "InvalidInput", f"line: expected at most {MAX_LINE_BYTES:,} bytes; got more.")
        if isinstance(stripped, RowError) or stripped.strip():
            yield number, stripped
        number += 1


def first_of(values: Iterable[Any], size: int) -> list[Any]:
    """At most `size` of `values`, or those before a failure; raised if there is none before it."""
    return next(batched(values, size), [])


def batched(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of at most `size` of `values`, in order; what comes before a failure is given out before it is raised."""
    iterator = iter(values)
    end = object()
    batch: list[Any] = []
    while True:
        value = attempt("read", partial(next, iterator, end))
        failed = isinstance(value, RowError)
        if batch and (value is end or failed or len(batch) == size):
            yield batch
            batch = []
        if value is end:
            return
        if failed:
            raise value.__cause__ or value
        batch.append(value)


def conform(
    values: Any,
    column: pa.Field,
    errors: list[RowError | None],
    convert: Callable[[Any, pa.DataType], Any],
) -> Any:
    """The values in the column's type; a value that does not fit is null, and its row's error is noted in `errors`.

    Args:
        values: A list or an Arrow array.
        column: Its name and type.
        errors: One entry per row.
        convert: Makes an Arrow array of a type from some of the values.
    """
    try:
        return convert(values, column.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError, RecursionError):
        pass
    fitting: list[Any] = []
    for row in range(len(values)):
        one = attempt("read", partial(convert, values[row : row + 1], column.type))
        if isinstance(one, RowError):
            value = values[row].as_py() if isinstance(values[row], pa.Scalar) else values[row]
            wrong = InvalidInput(f"{column.name}: expected {column.type}; got {_shown(value)}.")
            errors[row] = errors[row] or RowError.from_exception("read", wrong)
            fitting.append(pa.nulls(1, column.type))
        else:
            fitting.append(one)
    chunks = [chunk for one in fitting for chunk in (one.chunks if isinstance(one, pa.ChunkedArray) else [one])]
    return pa.chunked_array(chunks, type=column.type).combine_chunks()


def _shown(value: Any) -> str:
    """A value in few characters; its type where it is nested too deep to be shown."""
    if isinstance(value, str | bytes):
        return repr(value[:SHOWN_CHARS])
    shown = attempt("read", partial(repr, value))
    return type(value).__name__ if isinstance(shown, RowError) else shown[:SHOWN_CHARS]
