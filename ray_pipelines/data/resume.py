"""The ledger: which rows of the input are written, and in which files.

A block is written in three steps: its results, its dead letters, and then one small file under `_run/commits/` that
names both and says exactly which rows they hold. What has no such file was never written. Rows are integers
(`inventory.py`) in roaring bitmaps: a block of neighbours is a few bytes, one of scattered rows two bytes a row, and
all that is written so far is one bitmap that hardly grows.

Two committed blocks may overlap: Ray may repeat work with other boundaries, and a task of a killed run may outlive it
for a moment. A block counts only if none of its rows counts already; what it alone had is read again. So every row
counts once, whatever happened. Such a task may also commit when another run has begun in its place: blocks whose files
have not that run's names do not count.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import posixpath
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydantic import BaseModel
from pyroaring import BitMap64

from ray_pipelines.data.folder import Folder
from ray_pipelines.data.formats import read_unit
from ray_pipelines.data.inventory import Inventory, PlannedUnit
from ray_pipelines.engine.counters import Counters
from ray_pipelines.storage import FilesystemConfig
from ray_pipelines.validation import model_of_json

__all__ = ["COMMITS", "Commit", "Ledger", "OutputFile", "Remaining", "remaining_units"]

COMMITS = "_run/commits"
COMMIT_NAME = re.compile(rf"{COMMITS}/([0-9a-f]{{20}}|merged-[0-9]{{8}})\.json")
MERGED_COMMITS = 1000
READING_THREADS = 32


@dataclass(frozen=True)
class OutputFile:
    """A written file.

    Attributes:
        path: Its path below the output.
        num_rows: Its rows.
        num_bytes: Its size.
        unzipped_bytes: Size of gzipped JSON lines without compression.
    """

    path: str
    num_rows: int
    num_bytes: int
    unzipped_bytes: int | None = None

    def is_of(self, prefix: str) -> bool:
        """Whether the run whose files begin with `prefix` has written it."""
        return posixpath.basename(self.path).startswith(f"part-{prefix}-")

    def sizes(self) -> dict[str, int]:
        """What the manifest says of it."""
        sizes = {"num_rows": self.num_rows, "num_bytes": self.num_bytes}
        return sizes if self.unzipped_bytes is None else {**sizes, "unzipped_bytes": self.unzipped_bytes}


class _CommitLine(BaseModel):
    """A commit as JSON has it."""

    rows: str
    num_errors: int
    results: list[tuple[str, int, int, int | None]]
    dead_letters: list[tuple[str, int, int, int | None]]
    reasons: dict[str, int]
    ends: dict[int, tuple[int, int]]
    left_out: dict[str, int] = {}


@dataclass(frozen=True)
class Commit:
    """One written block.

    Attributes:
        rows: The rows that it holds, as integers.
        num_errors: How many of them are dead letters.
        results: Files of results.
        dead_letters: Files of dead letters.
        reasons: How often each stage and type of error occurs.
        ends: Number of a file: how many of its units end in this block, and the rows of these units.
        left_out: Name of a value that no column holds: how many rows have one.
    """

    rows: BitMap64
    num_errors: int
    results: tuple[OutputFile, ...] = ()
    dead_letters: tuple[OutputFile, ...] = ()
    reasons: Mapping[str, int] = field(default_factory=dict)
    ends: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The block's name: the same rows have the same name, whoever writes them."""
        return block_name(self.rows)

    def to_json(self) -> str:
        """The commit as one line."""
        values = {
            "num_rows": len(self.rows),
            "num_errors": self.num_errors,
            "rows": base64.b64encode(zlib.compress(self.rows.serialize())).decode(),
            "results": [dataclasses.astuple(file) for file in self.results],
            "dead_letters": [dataclasses.astuple(file) for file in self.dead_letters],
            "reasons": dict(self.reasons),
            "ends": {str(source): end for source, end in self.ends.items()},
            "left_out": dict(self.left_out),
        }
        return json.dumps(values)

    @classmethod
    def from_json(cls, line: str | bytes) -> Commit:
        """The commit that `to_json` has written."""
        values = model_of_json(line, _CommitLine)
        return cls(
            rows=BitMap64.deserialize(zlib.decompress(base64.b64decode(values.rows))),
            num_errors=values.num_errors,
            results=tuple(OutputFile(*file) for file in values.results),
            dead_letters=tuple(OutputFile(*file) for file in values.dead_letters),
            reasons=values.reasons,
            ends=values.ends,
            left_out=values.left_out,
        )

    def write(self, folder: Folder) -> None:
        """Commits the block: from here on its rows are written."""
        folder.write(f"{COMMITS}/{self.name}.json", self.to_json().encode())


def block_name(rows: BitMap64) -> str:
    """The name of the block of these rows."""
    return hashlib.blake2b(rows.serialize(), digest_size=10).hexdigest()


class Ledger:
    """All commits of an output that count.

    The driver keeps the bitmap of rows and some counts; the commits themselves are merged into larger files as they
    come, and read again when the manifest is made.

    Args:
        folder: The output.
    """

    def __init__(self, folder: Folder) -> None:
        self.done = BitMap64()
        self.num_errors = 0
        self.reasons: Counter[str] = Counter()
        self.counters = Counters()
        self.ends: dict[int, tuple[int, int]] = {}
        self._folder = folder
        self._unmerged: list[Commit] = []
        self._num_merged = 0

    @classmethod
    def read(cls, folder: Folder, prefix: str) -> Ledger:
        """The ledger as the run of this prefix has left it; blocks whose files are not all there do not count."""
        ledger = cls(folder)
        on_disk = folder.sizes()
        names = sorted(name for name in on_disk if _is_commit(name))
        merged = [name for name in names if "/merged-" in name]
        single = [name for name in names if "/merged-" not in name]
        ledger._num_merged = max((int(name[-13:-5]) for name in merged), default=0)
        for commit in _read_commits(folder, [*merged, *single]):
            files = (*commit.results, *commit.dead_letters)
            if all(file.is_of(prefix) and on_disk.get(file.path) == file.num_bytes for file in files):
                ledger.add(commit)
        ledger._rewrite(names)
        return ledger

    @property
    def num_rows(self) -> int:
        """Rows that are written."""
        return len(self.done)

    def add(self, commit: Commit) -> bool:
        """Counts a commit, unless some of its rows count already; gives whether it does."""
        if not commit.rows.isdisjoint(self.done):
            return False
        self.done |= commit.rows
        self.num_errors += commit.num_errors
        self.reasons.update(commit.reasons)
        self.counters.add(Counters(left_out=dict(commit.left_out)))
        for source, (num_units, num_rows) in commit.ends.items():
            units, rows = self.ends.get(source, (0, 0))
            self.ends[source] = units + num_units, rows + num_rows
        self._unmerged.append(commit)
        if len(self._unmerged) >= MERGED_COMMITS:
            self._merge()
        return True

    def commits(self) -> Iterator[Commit]:
        """All commits that count."""
        self._merge()
        names = [name for name in self._folder.sizes(COMMITS) if "/merged-" in name]
        return _read_commits(self._folder, sorted(names))

    def clear(self) -> None:
        """Removes all commits."""
        self._folder.remove(self._folder.sizes(COMMITS))

    def _merge(self) -> None:
        """Moves the commits since the last time into one file."""
        if not self._unmerged:
            return
        self._num_merged += 1
        lines = "\n".join(commit.to_json() for commit in self._unmerged)
        self._folder.write(f"{COMMITS}/merged-{self._num_merged:08d}.json", lines.encode())
        self._folder.remove([f"{COMMITS}/{commit.name}.json" for commit in self._unmerged])
        self._unmerged = []

    def _rewrite(self, old_names: Sequence[str]) -> None:
        """Puts what counts in place of what was found, so that what does not count is gone for good."""
        self._merge()
        new = {name for name in self._folder.sizes(COMMITS) if "/merged-" in name} - set(old_names)
        if old_names:
            assert new or not self.num_rows
            self._folder.remove(name for name in old_names if name not in new)


def _is_commit(name: str) -> bool:
    return COMMIT_NAME.fullmatch(name) is not None


def _read_commits(folder: Folder, names: Iterable[str]) -> Iterator[Commit]:
    with ThreadPoolExecutor(READING_THREADS) as threads:
        for commits in threads.map(partial(_read_file_of_commits, folder), names):
            yield from commits


def _read_file_of_commits(folder: Folder, name: str) -> list[Commit]:
    remedy = "Remove it: its rows are read again."
    return folder.read_as(name, lambda data: [Commit.from_json(line) for line in data.splitlines()], remedy) or []


@dataclass(frozen=True)
class Remaining:
    """A unit that is not all written.

    Attributes:
        planned: The unit.
        skip: Rows that are written, serialised; None for none.
        only: The only rows that are wanted, serialised; None for all.
    """

    planned: PlannedUnit
    skip: bytes | None = None
    only: bytes | None = None


def remaining_units(inventory: Inventory, ledger: Ledger, only: BitMap64 | None = None) -> list[Remaining]:
    """The units with rows that are not written yet.

    Args:
        inventory: The input.
        ledger: What is written.
        only: The rows that are wanted; None for all.
    """
    found: list[Remaining] = []
    for source, units in enumerate(inventory.units):
        ids = inventory.ids_of_file(source)
        num_done = ledger.done.range_cardinality(ids.start, ids.stop)
        if only is not None:
            wanted = _within(only, ids) - _within(ledger.done, ids)
            found += [Remaining(unit, only=wanted.serialize()) for unit in units if _has_any(unit, wanted)]
        elif not _is_complete(units, num_done, ledger.ends.get(source)):
            skip = _within(ledger.done, ids).serialize() if num_done else None
            found += [Remaining(unit, skip=skip) for unit in units if not _has_all(unit, ledger.done)]
    return found


def _within(rows: BitMap64, ids: range) -> BitMap64:
    """The rows in a range, which may be far larger than what is in it."""
    if not rows.range_cardinality(ids.start, ids.stop):
        return BitMap64()
    last = rows[rows.rank(ids.stop - 1) - 1]
    return rows & BitMap64(range(ids.start, last + 1))


def _has_any(unit: PlannedUnit, rows: BitMap64) -> bool:
    return bool(rows) and (unit.ids is None or rows.range_cardinality(unit.ids.start, unit.ids.stop) > 0)


def _has_all(unit: PlannedUnit, rows: BitMap64) -> bool:
    return unit.ids is not None and rows.range_cardinality(unit.ids.start, unit.ids.stop) == len(unit.ids)


def _is_complete(units: Sequence[PlannedUnit], num_done: int, end: tuple[int, int] | None) -> bool:
    """Whether all rows of a file are written: as many as are known, or as its units had when they ended.

    A unit whose rows are known may end before: the file is broken.
    """
    known = [number for number in (unit.num_rows for unit in units) if number is not None]
    return end == (len(units), num_done) or (len(known) == len(units) and sum(known) == num_done)


def without_empty(
    units: Sequence[Remaining], inventory: Inventory, schema: Any, filesystem: FilesystemConfig
) -> list[Remaining]:
    """The units without those that have no rows at all, which nothing could be written of; they are opened to see."""
    unknown = [unit for unit in units if unit.planned.num_rows is None and unit.skip is None]

    def is_empty(unit: Remaining) -> bool:
        tables = read_unit(unit.planned.unit, inventory.read_format, schema, 1, filesystem)
        return all(table.num_rows == 0 for table in tables)

    with ThreadPoolExecutor(READING_THREADS) as threads:
        empty = {id(unit) for unit, found in zip(unknown, threads.map(is_empty, unknown), strict=True) if found}
    return [unit for unit in units if id(unit) not in empty]
