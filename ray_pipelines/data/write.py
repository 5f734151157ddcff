"""Results and dead letters: one file of each per block, counted, and committed by a manifest written last.

    <write.path>/
      results/part-….parquet        the kept columns of the input and the prediction
      dead_letters/part-….parquet   id, source, row, stage, error_type, message, and the row's kept columns as `input`
      manifest.json                 which files belong to the run; written when all of them are there
      report.json, report.html      what the run did and measured

A file is named by the position of its first row, so that a task that Ray runs twice writes the same file twice. A
folder without a manifest holds an unfinished run: the next one starts anew.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_pipelines.config import Job
from ray_pipelines.data.counting import counters_of
from ray_pipelines.data.formats import ROW_COLUMN, SOURCE_COLUMN
from ray_pipelines.data.prometheus import publish
from ray_pipelines.data.sampling import SAMPLES_TYPE, RowSampler
from ray_pipelines.data.workers import ERROR_COLUMN
from ray_pipelines.storage import FilesystemConfig, explain, filesystem_of, open_file, storage_errors

__all__ = ["BLOCK_STATS", "Output", "write_block"]

RESULTS, DEAD_LETTERS = "results", "dead_letters"
MANIFEST, REPORT, HTML_REPORT, STARTED = "manifest.json", "report.json", "report.html", "_started.json"

BLOCK_STATS = pa.schema(
    [
        ("num_rows", pa.int64()),
        ("num_errors", pa.int64()),
        ("results_file", pa.string()),
        ("dead_letters_file", pa.string()),
        ("errors", pa.list_(pa.struct([("reason", pa.string()), ("count", pa.int64())]))),
        ("counters", pa.string()),
        ("samples", SAMPLES_TYPE),
        ("written_s", pa.float64()),
    ]
)
"""What `write_block` says of one block."""


@dataclass(frozen=True)
class Output:
    """The folder that a run writes to.

    Attributes:
        path: An absolute path or a URI: the tasks that write may run in another working directory.
        file_format: `parquet` or `jsonl`.
        filesystem: How it is reached.
    """

    path: str
    file_format: str
    filesystem: FilesystemConfig

    @classmethod
    def of(cls, job: Job) -> Output:
        """The output that a job names; asked for on the driver, whose environment may hold credentials."""
        write = job.write
        path = write.path if "://" in write.path else str(Path(write.path).absolute())
        return cls(path.rstrip("/"), write.format, job.write_filesystem)

    def problems(self, mode: str) -> list[str]:
        """Why a run may not write here: a finished run, or files of somebody else."""
        try:
            filesystem, root = filesystem_of(self.path, self.filesystem)
            if filesystem.isfile(root):
                return [f"write.path: {self.path} is a file; expected a folder."]
            names = {posixpath.basename(name.rstrip("/")) for name in filesystem.ls(root, detail=False)}
        except FileNotFoundError:
            return []
        except storage_errors() as error:
            reason = explain(self.path, error, self.filesystem, "write")
            return [f"write.path: {self.path} cannot be listed: {reason}"]
        ours = {RESULTS, DEAD_LETTERS, MANIFEST, REPORT, HTML_REPORT, STARTED}
        if names - ours and not (names & {MANIFEST, STARTED}):
            found = ", ".join(sorted(names - ours)[:3])
            return [f"write.path: {self.path} holds files that no run has written ({found}). Choose another folder."]
        if MANIFEST in names and mode == "error":
            return [
                f"write.path: {self.path} holds the output of a finished run. Choose another folder, or set "
                "write.mode: overwrite."
            ]
        return []

    def start(self, run_id: str) -> None:
        """Clears what an earlier run has left and marks the folder as this run's."""
        filesystem, root = filesystem_of(self.path, self.filesystem)
        for name in (MANIFEST, REPORT, HTML_REPORT, RESULTS, DEAD_LETTERS):
            if filesystem.exists(f"{root}/{name}"):
                filesystem.rm(f"{root}/{name}", recursive=True)
        self.write_json(STARTED, {"run_id": run_id})

    def commit(self, manifest: Mapping[str, Any]) -> None:
        """Writes the manifest: from here on, the run is finished."""
        self.write_json(MANIFEST, manifest)
        filesystem, root = filesystem_of(self.path, self.filesystem)
        filesystem.rm(f"{root}/{STARTED}")

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Writes `values` as the file called `name`."""
        self.write_bytes(name, json.dumps(values, indent=2, default=str).encode())

    def write_bytes(self, name: str, data: bytes) -> None:
        """Writes `data` as the file called `name`."""
        with self._open(name) as file:
            file.write(data)

    def write_table(self, table: pa.Table, folder: str, name: str) -> str:
        """Writes a table under `folder`; gives the file's path below the output."""
        ending = "parquet" if self.file_format == "parquet" else "jsonl"
        relative = f"{folder}/part-{name}.{ending}"
        with self._open(relative) as file:
            if self.file_format == "parquet":
                pq.write_table(table, file, compression="zstd")
            else:
                for row in table.to_pylist():
                    file.write(json.dumps(_json_value(row), ensure_ascii=False, allow_nan=False).encode() + b"\n")
        return relative

    def read_table(self, relative: str) -> pa.Table:
        """A file of the output."""
        with open_file(f"{self.path}/{relative}", self.filesystem) as file:
            if relative.endswith(".parquet"):
                return pq.read_table(file)
            return pa.Table.from_pylist([json.loads(line) for line in file])

    def _open(self, name: str) -> Any:
        filesystem, root = filesystem_of(self.path, self.filesystem)
        filesystem.makedirs(posixpath.dirname(f"{root}/{name}"), exist_ok=True)
        return filesystem.open(f"{root}/{name}", "wb")


def write_block(
    table: pa.Table,
    output: Output,
    job: Job,
    kept_columns: tuple[str, ...],
    provenance: str,
    sampler: RowSampler,
) -> pa.Table:
    """Writes the rows of a block, results and dead letters apart; gives one row of `BLOCK_STATS`.

    Args:
        table: The kept columns, the prediction, the error, and where each row comes from.
        output: Where to.
        job: The job.
        kept_columns: Columns of the input to write.
        provenance: JSON for the metadata of the files.
        sampler: Chooses rows for the report.
    """
    import time

    start_s = time.perf_counter()
    if table.num_rows == 0:
        return BLOCK_STATS.empty_table()
    metadata = {b"ray_pipelines": provenance.encode()}
    failed = pc.is_valid(table[ERROR_COLUMN])
    done = table.filter(pc.invert(failed))
    results = done.select([*kept_columns, job.output_column])
    errors = table.filter(failed)
    name = _block_name(table)
    files: dict[str, str | None] = {RESULTS: None, DEAD_LETTERS: None}
    if results.num_rows:
        files[RESULTS] = output.write_table(results.replace_schema_metadata(metadata), RESULTS, name)
    if errors.num_rows:
        letters = dead_letters(errors, kept_columns).replace_schema_metadata(metadata)
        files[DEAD_LETTERS] = output.write_table(letters, DEAD_LETTERS, name)
    counters = counters_of(table)
    counters.write_s += time.perf_counter() - start_s
    found = reasons(errors)
    publish(counters, table.num_rows, found, job.task, job.model.name or "default")
    stats = {
        "num_rows": table.num_rows,
        "num_errors": errors.num_rows,
        "results_file": files[RESULTS],
        "dead_letters_file": files[DEAD_LETTERS],
        "errors": [{"reason": reason, "count": count} for reason, count in found.most_common()],
        "counters": counters.to_json(),
        "samples": sampler.sample(done, job.output_column),
        "written_s": time.time(),
    }
    return pa.Table.from_pylist([stats], schema=BLOCK_STATS)


def dead_letters(errors: pa.Table, kept_columns: Iterable[str]) -> pa.Table:
    """Rows that failed as dead letters: where each comes from, why it failed, and its kept columns."""
    error = errors[ERROR_COLUMN].combine_chunks()
    sources, rows = errors[SOURCE_COLUMN], errors[ROW_COLUMN]
    columns = {
        "id": pc.binary_join_element_wise(sources, pc.cast(rows, pa.string()), "#"),
        "source": sources,
        "row": rows,
        "stage": error.field("stage"),
        "error_type": error.field("type"),
        "message": error.field("message"),
    }
    kept = list(kept_columns)
    if kept:
        arrays = [errors[name].combine_chunks() for name in kept]
        columns["input"] = pa.StructArray.from_arrays(arrays, fields=[errors.schema.field(name) for name in kept])
    return pa.table(columns)


def reasons(errors: pa.Table) -> Counter[str]:
    """How often each stage and type of error occurs."""
    found = errors[ERROR_COLUMN].to_pylist()
    return Counter(f"{error['stage']}: {error['type']}" for error in found)


def _block_name(table: pa.Table) -> str:
    first = f"{table[SOURCE_COLUMN][0].as_py()}#{table[ROW_COLUMN][0].as_py()}#{table.num_rows}"
    return hashlib.blake2b(first.encode(), digest_size=8).hexdigest()


def _json_value(value: Any) -> Any:
    """`value` with what JSON lacks replaced: bytes by base64, NaN and infinities by null, times by ISO strings."""
    if isinstance(value, dict):
        return {key: _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
