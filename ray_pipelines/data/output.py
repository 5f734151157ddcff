"""The folder that a run writes to, and how to read it.

    <write.path>/
      results/part-….parquet        the kept columns of the input and the prediction
      dead_letters/part-….parquet   id, source, row, stage, error_type, message, attempt, the kept columns as `input`
      manifest.json                 which files belong to the run; written when all of them are there
      report.json, report.html      what the run did and measured
      _run/                         what an interrupted run needs to go on: run.json, sources-….parquet, commits/, lease

A reader that follows the manifest (`read_output`) sees a finished run or none. When a run has ended, the folders hold
exactly the files of the manifest, so that tools which read whole folders are right too.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, BaseModel, model_validator

from ray_pipelines.arrow import empty_table
from ray_pipelines.config import FilesystemConfig, Job
from ray_pipelines.data.folder import Folder
from ray_pipelines.data.json_values import array_of_json, held_type
from ray_pipelines.data.sinks import partitionable, tar_rows
from ray_pipelines.errors import ConfigError, StorageError
from ray_pipelines.storage import missing_bucket, probe
from ray_pipelines.validation import did_you_mean, model_of

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = [
    "DEAD_LETTERS",
    "HTML_REPORT",
    "MANIFEST",
    "REPORT",
    "RESULTS",
    "RUN",
    "STAGED",
    "Output",
    "RunOutput",
    "read_manifest",
    "read_output",
]

RESULTS, DEAD_LETTERS = "results", "dead_letters"
MANIFEST, REPORT, HTML_REPORT = "manifest.json", "report.json", "report.html"
STAGED = {name: f"_run/{name}" for name in (REPORT, HTML_REPORT)}
"""Where reports are until the manifest is there, so that that of a run which is replaced stays with its results."""
RUN = "_run/run.json"
LEAST_BLOCK_BYTES, MAX_BLOCK_BYTES = 1 << 20, 512 << 20
OURS = {RESULTS, DEAD_LETTERS, MANIFEST, REPORT, HTML_REPORT, "_run"}


def schema_to_text(schema: pa.Schema) -> str:
    """A schema as text."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def schema_from_text(text: str) -> pa.Schema:
    """The schema that `schema_to_text` has written."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def _checked_schema(text: str) -> str:
    schema_from_text(text)
    return text


@dataclass(frozen=True)
class Output:
    """The folder that a run writes to.

    Attributes:
        folder: The folder.
    """

    folder: Folder

    @classmethod
    def of(cls, job: Job) -> Output:
        """The output that a job names; asked for on the driver, whose environment may hold credentials."""
        return cls(Folder.of(job.write.path, job.write_filesystem))

    @property
    def path(self) -> str:
        """The absolute path or URI."""
        return self.folder.path

    def problems(self, mode: str) -> list[str]:
        """Why a run may not write here: a finished run, or files of somebody else."""
        unreachable = probe(self.path, self.folder.filesystem) or missing_bucket(self.path, self.folder.filesystem)
        if unreachable:
            return [f"write.{unreachable}"]
        try:
            if self.folder.is_file():
                return [f"write.path: {self.path} is a file; expected a folder."]
            names = self.folder.top_names()
            # Other programs too have folders called results.
            manifest = read_manifest(self.folder) if MANIFEST in names else None
        except (StorageError, ConfigError) as error:
            return [f"write.path: {error}"]
        is_of_run = "_run" in names or manifest is not None
        if names and not is_of_run:
            found = ", ".join(sorted(names - OURS or names)[:3])
            return [f"write.path: {self.path} holds files that no run has written ({found}). Choose another folder."]
        if MANIFEST in names and mode != "overwrite":
            return [
                f"write.path: {self.path} holds the output of a finished run. Choose another folder, or set "
                "write.mode: overwrite."
            ]
        if self.folder.read(RUN) is not None and mode == "error":
            return [
                f"write.path: {self.path} holds an unfinished run. Set write.mode: resume to go on with it, or "
                "overwrite to start anew."
            ]
        return []

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Writes `values` as the file called `name`."""
        self.folder.write_json(name, values)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Writes `data` as the file called `name`."""
        self.folder.write(name, data)

    def read_table(self, relative: str) -> pa.Table:
        """A file of the output."""
        data = self.folder.read(relative)
        if data is None:
            raise FileNotFoundError(f"{self.path}/{relative}")
        if relative.endswith(".parquet"):
            return pq.read_table(pa.py_buffer(data))
        if relative.endswith(".gz"):
            data = gzip.decompress(data)
        if not relative.removesuffix(".gz").endswith(".jsonl"):
            return pa.Table.from_pylist(tar_rows(data))
        return pa.Table.from_pylist([json.loads(line) for line in data.splitlines()])


@dataclass(frozen=True)
class RunOutput:
    """The output of a finished run.

    Attributes:
        folder: Its folder.
        manifest: The manifest: run id, task, model, parameters, versions, counts, files, schemas.
    """

    folder: Folder
    manifest: Mapping[str, Any]

    @property
    def path(self) -> str:
        """The absolute path or URI of its folder."""
        return self.folder.path

    @property
    def results(self) -> Any:
        """The results as a lazy `pyarrow.dataset.Dataset` of exactly the run's files.

        Of JSON lines, it has what JSON lacks as texts and numbers (dates, bytes); tables have the types of the run.
        """
        return self._dataset(RESULTS)

    @property
    def dead_letters(self) -> Any:
        """The dead letters, likewise."""
        return self._dataset(DEAD_LETTERS)

    def files(self, kind: str = RESULTS) -> list[str]:
        """The paths of the files, or their URIs where they are remote: of `results`, or of `dead_letters`."""
        root = self.folder.arrow()[1] if self.folder.is_local else self.path
        return [f"{root}/{name}" for name in self.manifest["files"][kind]]

    def ray_dataset(self, kind: str = RESULTS) -> Dataset:
        """The results (or `dead_letters`) as a Ray dataset."""
        import ray.data

        names = self.manifest["files"][kind]
        if not names:
            return ray.data.from_arrow(empty_table(self._schema(kind)))
        filesystem, root = self.folder.arrow()
        # Ray finds no extension behind a question mark.
        if names[0].endswith(".parquet") and "?" not in root and not self._partition_columns(kind):
            return ray.data.read_parquet([f"{root}/{name}" for name in names], filesystem=filesystem, partitioning=None)
        files = ray.data.from_items([{"name": name} for name in names])
        return files.map_batches(partial(self._table_of_file, kind=kind), batch_size=1, batch_format="pyarrow")

    def to_arrow(self, kind: str = RESULTS, columns: Sequence[str] | None = None) -> pa.Table:
        """The results (or `dead_letters`) as a table in memory, all columns or those named.

        Raises:
            ConfigError: A column does not exist, or the files are WebDataset shards.
        """
        dataset = self._dataset(kind)
        names = dataset.schema.names
        wrong = [name for name in columns or () if name not in names]
        if wrong:
            has = ", ".join(names)
            raise ConfigError(
                [f'columns: there is no column "{name}".{did_you_mean(name, names)} It has: {has}.' for name in wrong]
            )
        return self._typed(dataset.to_table(columns=list(columns) if columns is not None else None), kind)

    def to_pandas(self, kind: str = RESULTS, columns: Sequence[str] | None = None) -> Any:
        """The same as a `pandas.DataFrame`; a prediction is a dictionary or an array of them."""
        return self.to_arrow(kind, columns).to_pandas()

    def to_datasets(self, kind: str = RESULTS, columns: Sequence[str] | None = None) -> Any:
        """The same as a `datasets.Dataset` of Hugging Face; needs `pip install ray-pipelines[datasets]`."""
        import datasets

        return datasets.Dataset(self.to_arrow(kind, columns))

    def _dataset(self, kind: str, names: Sequence[str] | None = None) -> Any:
        """The files of those `names`, or all; JSON lines in the types that JSON has."""
        import pyarrow.dataset
        import pyarrow.json

        names = self.manifest["files"][kind] if names is None else names
        schema = self._schema(kind)
        if not names:
            return pyarrow.dataset.dataset(empty_table(schema))
        filesystem, root = self.folder.arrow()
        paths = [f"{root}/{name}" for name in names]
        if ".tar" in names[0]:
            raise ConfigError(f"{self.path}: has WebDataset shards, which pyarrow does not read. Read files() as such.")
        folders: Any = None
        columns = self._partition_columns(kind)
        if columns:
            folders = pyarrow.dataset.partitioning(pa.schema([schema.field(name) for name in columns]), flavor="hive")
        options = {"filesystem": filesystem, "partitioning": folders, "partition_base_dir": f"{root}/{kind}"}
        if names[0].endswith(".parquet"):
            return pyarrow.dataset.dataset(paths, schema=schema, format="parquet", **options)
        held = [field if field.name in columns else field.with_type(held_type(field.type)) for field in schema]
        reading = pyarrow.json.ReadOptions(block_size=self._block_bytes(names))
        lines = pyarrow.dataset.JsonFileFormat(read_options=reading)
        return pyarrow.dataset.dataset(paths, schema=pa.schema(held), format=lines, **options)

    def _block_bytes(self, names: Sequence[str]) -> int:
        """What is parsed at once of JSON lines: the largest file as a whole.

        pyarrow waits for ever where it parses as many files in several blocks as it has threads.
        """
        largest = max(self._unzipped_bytes(name) for name in names)
        return min(max(largest, LEAST_BLOCK_BYTES), MAX_BLOCK_BYTES)

    def _unzipped_bytes(self, name: str) -> int:
        """The size of a file without compression; the most that is parsed at once where an older manifest has none."""
        sizes: Mapping[str, int] = self.manifest["file_sizes"][name]
        return sizes.get("unzipped_bytes", MAX_BLOCK_BYTES if name.endswith(".gz") else sizes["num_bytes"])

    def _typed(self, table: pa.Table, kind: str) -> pa.Table:
        """The table with what JSON lines hold in other types made what it was."""
        for index, field in enumerate(self._schema(kind).field(name) for name in table.column_names):
            if table.schema.field(index).type != field.type:
                table = table.set_column(index, field, array_of_json(table[index].to_pylist(), field.type))
        return table

    def _table_of_file(self, files: pa.Table, kind: str) -> pa.Table:
        return self._typed(self._dataset(kind, files["name"].to_pylist()).to_table(), kind)

    def _partition_columns(self, kind: str) -> Sequence[str]:
        return self.manifest["job"]["write"].get("partition_by", ()) if kind == RESULTS else ()

    def _schema(self, kind: str) -> pa.Schema:
        return partitionable(schema_from_text(self.manifest["schemas"][kind]), self._partition_columns(kind))


def read_output(path: str, filesystem: FilesystemConfig | Mapping[str, Any] | None = None) -> RunOutput:
    """The output of a finished run: what its manifest lists, and nothing else.

        output = ray_pipelines.read_output("s3://bucket/out")
        table = output.results.to_table(columns=["id", "prediction"])
        frame = output.to_pandas(columns=["id", "prediction"])     # also to_arrow(), to_datasets()
        failed = output.to_pandas("dead_letters")
        dataset = output.ray_dataset()

    Args:
        path: `write.path` of the job.
        filesystem: How it is reached, as `write.filesystem` of a job; what it leaves open comes from the environment.

    Raises:
        ConfigError: There is no finished run, or its manifest is damaged.
        StorageError: It cannot be reached.
    """
    config = FilesystemConfig.model_validate(filesystem or {})
    folder = Folder.of(path, config.resolved())
    manifest = read_manifest(folder)
    if manifest is None:
        state = (
            "an unfinished run; run the same job again" if folder.read(RUN) is not None else "no manifest.json of one"
        )
        raise ConfigError(f"{path}: expected the output of a finished run; found {state}.")
    return RunOutput(folder, manifest)


class _Files(BaseModel):
    results: list[str]
    dead_letters: list[str]


class _Schemas(BaseModel):
    results: Annotated[str, AfterValidator(_checked_schema)]
    dead_letters: Annotated[str, AfterValidator(_checked_schema)]


class _JobValues(BaseModel, extra="allow"):
    write: dict[str, Any]


class _Manifest(BaseModel, extra="allow"):
    """What is read of a manifest again."""

    run_id: str
    attempt: int
    num_errors: int
    files: _Files
    file_sizes: dict[str, dict[str, int]]
    schemas: _Schemas
    sources: str
    job: _JobValues
    runs: list[Any] = []

    @model_validator(mode="after")
    def _has_sizes(self) -> _Manifest:
        for name in (*self.files.results, *self.files.dead_letters):
            if not {"num_rows", "num_bytes"} <= self.file_sizes.get(name, {}).keys():
                raise ValueError(f"file_sizes: expected num_rows and num_bytes of {name}.")
        return self


def read_manifest(folder: Folder) -> dict[str, Any] | None:
    """The manifest of the finished run in a folder; None if there is none, or one of another program.

    Raises:
        ConfigError: It is damaged.
    """
    remedy = "Put it back as it was, or remove it and run the job anew."
    return folder.read_as(MANIFEST, _manifest_of_json, remedy)


def _manifest_of_json(data: bytes) -> dict[str, Any] | None:
    values = json.loads(data)
    # Other programs too have files of that name.
    if isinstance(values, dict) and not {"files", "schemas"} <= values.keys():
        return None
    return model_of(values, _Manifest).model_dump()
