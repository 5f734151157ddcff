"""What a worker was doing when it died, for the worker that comes after it.

A row can end its process: a decoder that reads beyond its memory, an image that fills that of the machine, native code
that never returns. Ray starts another worker and gives it the same rows, for ever. So each worker notes on its node's
disk, before each step, which rows it is about to touch. A note is a few bytes in a file that is mapped into memory,
which costs about a microsecond and outlives the process however it ends.

Who gets the same batch of rows again finds the file, no longer locked by its owner, and draws the conclusions:

- rows that were in flight together are suspects: each runs by itself, before all others;
- a row that ends its worker twice while it is alone in flight is a dead letter (`WorkerKilled`), and so is one that is
  alone when the time limit ends the worker (`RowTimeout`).

A batch is known by its content, so that it is found again in whatever order Ray replays its work. Rows and results
stay in input order, which Ray's replay counts on. Each node has its own notes: a row that is retried on another node
starts there without a record.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import shutil
import struct
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from ray_pipelines.errors import RowError, RowTimeout, Stage, WorkerKilled

__all__ = ["Journal", "Record", "batch_key", "job_folder"]

STAGES: tuple[Stage, ...] = ("read", "decode", "preprocess", "forward", "postprocess")
HEADER = struct.Struct("<BBHI")
"""Of a slot: whether it is in use, whether its time is up, the number of the stage, and the number of rows."""
NUM_SLOTS = 8
SLOT_BYTES = 1 << 13
MAX_ROWS = (SLOT_BYTES - HEADER.size) // 4
NOTES_BYTES = NUM_SLOTS * SLOT_BYTES
DEATHS_ALONE = 2
SAMPLED_BYTES = 1 << 20
SAMPLED_ROWS = 16
KEPT_S = 7 * 24 * 3600
"""Seconds for which the notes of a job that was killed are kept."""


@dataclass
class Record:
    """What is held against a row.

    Attributes:
        stage: The step that was not survived.
        num_deaths: How often the worker died while this row was alone in flight.
        is_timeout: Whether one of these was the end of its time.
    """

    stage: Stage
    num_deaths: int = 0
    is_timeout: bool = False

    def verdict(self, timeout_s: float | None) -> RowError | None:
        """The row's dead letter, or None if it deserves another try by itself."""
        if self.is_timeout:
            return RowError.from_exception(self.stage, RowTimeout.after(timeout_s))
        if self.num_deaths >= DEATHS_ALONE:
            return RowError.from_exception(self.stage, WorkerKilled())
        return None


@dataclass
class Journal:
    """The notes on one batch of rows, and what is known of its rows from workers that died over them.

    Attributes:
        path: The file of this process.
        records: Of the rows that are under suspicion.
    """

    path: Path
    records: dict[int, Record] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._slots: dict[int, int] = {}
        self._last_slot = 0
        self._file: Any = None
        self._notes: Any = None

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path, key: str, stacks: Path | None = None) -> Iterator[Journal]:
        """The journal of the batch called `key`, whose notes end with the block.

        Args:
            folder: Where journals are kept.
            key: The batch.
            stacks: A file that is empty unless this process was ended because its time was up.
        """
        folder.mkdir(parents=True, exist_ok=True)
        dead = [file for path in sorted(folder.glob(f"{key}.*")) if (file := _locked(path)) is not None]
        journal = cls(folder / f"{key}.{uuid.uuid4().hex[:8]}")
        for file in dead:
            journal._learn(file.read())
        journal._start(stacks)
        for file in dead:
            Path(file.name).unlink(missing_ok=True)
            file.close()
        try:
            yield journal
        finally:
            journal.path.unlink(missing_ok=True)
            journal._notes.close()
            journal._file.close()

    def begin(self, thread: int, stage: Stage, rows: Sequence[int]) -> None:
        """Notes that a thread is about to touch `rows`."""
        slot = self._slots.setdefault(thread, len(self._slots) % NUM_SLOTS)
        self._last_slot = slot
        start = slot * SLOT_BYTES
        noted = rows[:MAX_ROWS]
        struct.pack_into(f"<{len(noted)}I", self._notes, start + HEADER.size, *noted)
        HEADER.pack_into(self._notes, start, 1, 0, STAGES.index(stage), len(noted))

    def end(self, thread: int) -> None:
        """Notes that these rows were survived."""
        self._notes[self._slots[thread] * SLOT_BYTES] = 0

    def time_is_up(self, thread: int) -> None:
        """Notes that the process ends because these rows took too long."""
        self._notes[self._slots[thread] * SLOT_BYTES + 1] = 1

    def blame_last(self) -> None:
        """Notes that the rows last touched were not survived after all."""
        self._notes[self._last_slot * SLOT_BYTES] = 1

    def _start(self, stacks: Path | None) -> None:
        """Makes this process's file: room for notes, and behind it what is known already; locked while it lives."""
        self._file = self.path.open("w+b")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        known = {row: vars(record) for row, record in self.records.items()}
        self._file.write(bytes(NOTES_BYTES) + json.dumps({"stacks": str(stacks or ""), "rows": known}).encode())
        self._file.flush()
        self._notes = mmap.mmap(self._file.fileno(), NOTES_BYTES)

    def _learn(self, content: bytes) -> None:
        """Adds what the file of a dead process says."""
        if len(content) <= NOTES_BYTES:
            return
        known = json.loads(content[NOTES_BYTES:])
        for row, record in known["rows"].items():
            self.records[int(row)] = Record(**record)
        stacks = Path(known["stacks"])
        was_ended = bool(known["stacks"]) and stacks.exists() and stacks.stat().st_size > 0
        in_flight = [note for slot in range(NUM_SLOTS) if (note := _note(content, slot)) is not None]
        for stage, rows, is_timeout in in_flight:
            for row in rows:
                record = self.records.setdefault(row, Record(stage))
                record.stage = stage
                if len(rows) == len(in_flight) == 1:
                    record.num_deaths += 1
                    record.is_timeout = record.is_timeout or is_timeout or was_ended


def _note(content: bytes, slot: int) -> tuple[Stage, list[int], bool] | None:
    start = slot * SLOT_BYTES
    is_used, is_timeout, stage, num_rows = HEADER.unpack_from(content, start)
    if not is_used:
        return None
    rows = struct.unpack_from(f"<{num_rows}I", content, start + HEADER.size)
    return STAGES[stage], list(rows), bool(is_timeout)


def _locked(path: Path) -> Any:
    """The open file, if its owner is dead and nobody else has claimed it."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def batch_key(table: pa.Table, stage: str) -> str:
    """A name for a batch of rows by its content: all of a small one, sizes and some rows of a large one.

    >>> batch_key(pa.table({"a": [1, 2]}), "fused") == batch_key(pa.table({"a": [1, 3]}), "fused")
    False
    """
    num_rows = table.num_rows
    if table.nbytes > SAMPLED_BYTES and num_rows > SAMPLED_ROWS:
        step = (num_rows - 1) / (SAMPLED_ROWS - 1)
        sample = pa.concat_tables([table.slice(round(index * step), 1) for index in range(SAMPLED_ROWS)])
    else:
        sample = table
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, sample.schema) as writer:
        writer.write_table(sample.combine_chunks())
    digest = hashlib.blake2b(f"{stage} {num_rows} {table.nbytes}".encode(), digest_size=12)
    digest.update(sink.getvalue())
    return digest.hexdigest()


def job_folder() -> Path:
    """Where this node keeps the notes of this Ray job, or those of this process if it is none of Ray's."""
    import ray

    name = str(os.getpid())
    if ray.is_initialized():
        context = ray.get_runtime_context()
        name = f"{context.get_session_name()}-{context.get_job_id()}"
    folder = Path(tempfile.gettempdir()) / f"ray_pipelines-{os.getuid()}"
    for old in folder.glob("*"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > KEPT_S:
                shutil.rmtree(old)
    return folder / name
