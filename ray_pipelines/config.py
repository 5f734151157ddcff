"""The job file, as frozen pydantic models: every setting, its default and its description stand here once.

    task: image-classification          what to do with each row; or several tasks of it, each with its own model:
    tasks: {NAME: {task: …, model: …}}
    model: {name: google/vit-base-...}  with which model
    parameters: {top_k: 1}              of the task (`ray-pipelines tasks NAME` lists them)
    inputs: {image: picture}            field of the task: column of the dataset
    read: {path: s3://bucket/in/}       from where
    write: {path: s3://bucket/out/}     to where
    workers, batch, limits              how; the defaults are meant to be kept
    workers: serve://app                or: by the replicas of a Serve application
    optimize: {int8: true}              what makes the model cheaper, each off unless asked
    max_error_rate, max_errors          when to give up

`job_file.py` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from ray_pipelines import tasks
from ray_pipelines.errors import ConfigError
from ray_pipelines.media.limits import MediaLimits
from ray_pipelines.optimize import ATTENTIONS, OptimizeConfig, check_attention
from ray_pipelines.storage import FilesystemConfig
from ray_pipelines.validation import check_bounds, did_you_mean

__all__ = [
    "BatchConfig",
    "Constant",
    "FilesystemConfig",
    "Job",
    "MediaLimits",
    "ModelConfig",
    "OptimizeConfig",
    "ReadConfig",
    "TaskConfig",
    "WorkersConfig",
    "WriteConfig",
    "chunking_problems",
    "input_problems",
    "of_one_task",
    "split_inputs",
]

DTYPES = ("auto", "float32", "float16", "bfloat16", "float64")
ROWS_PER_CALL = 512
SERVE = "serve://"
OF_OWN_WORKERS = ("concurrency", "num_gpus", "num_cpus", "num_threads", "stages", "chunking", "autoscaling")
"""Settings of workers that a job brings itself."""
ReadFormat = Literal["parquet", "jsonl", "csv", "text", "arrow", "webdataset", "images", "audio", "video", "binary"]
WriteFormat = Literal["parquet", "jsonl", "webdataset"]
TASK_IS_REQUIRED = "task: is required; or tasks, if there are several."
ERROR_IS_A_COLUMN = "tasks.error: is the name of another column. Call the task something else."
OF_ONE_TASK = ("task", "model", "parameters", "optimize", "output_column", "prediction_type", "serve")
"""Settings of a job that each of several tasks has by itself, or none."""
COMPRESSIONS_OF = {
    "parquet": ("auto", "none", "zstd", "snappy", "gzip", "lz4"),
    "jsonl": ("auto", "none", "gzip"),
    "webdataset": ("auto", "none", "gzip"),
}


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelConfig(_Config):
    """The model and everything else that `transformers.pipeline()` loads."""

    name: str | None = Field(None, description="Hub id or local folder; unset, the task's default model.")
    revision: str | None = Field(None, description="Branch, tag or commit on the hub; resolved to a commit once.")
    config: str | None = Field(None, description="Hub id or folder of another configuration.")
    tokenizer: str | None = Field(None, description="Hub id or folder of another tokenizer.")
    feature_extractor: str | None = Field(None, description="Hub id or folder of another feature extractor.")
    image_processor: str | None = Field(None, description="Hub id or folder of another image processor.")
    processor: str | None = Field(None, description="Hub id or folder of another processor.")
    video_processor: str | None = Field(None, description="Hub id or folder of another video processor.")
    assistant_model: str | None = Field(
        None,
        description="Hub id or folder of a smaller model whose drafts speed up generation (assisted decoding); results "
        "are those without it, and rows run one by one.",
    )
    use_fast: bool = Field(True, description="Use the fast (Rust) tokenizer where there is one.")
    dtype: str = Field("auto", description=f"Precision of the weights: {', '.join(DTYPES)}; auto is the checkpoint's.")
    attn_implementation: str | None = Field(
        None,
        description=f"How attention is computed: {', '.join(ATTENTIONS)}, or a kernel of the hub; unset, the best.",
    )
    device: str | int | None = Field(
        None,
        description="cpu, cuda, cuda:1, …; unset, a GPU where the worker has one (workers.num_gpus), else the CPU.",
    )
    device_map: str | dict[str, int | str] | None = Field(
        None, description="Spread one model over devices, as accelerate does; excludes device."
    )
    model_kwargs: dict[str, Any] = Field(default_factory=dict, description="Further arguments of from_pretrained().")
    trust_remote_code: bool = Field(False, description="Run code that comes with the model. Read it first.")
    pipeline_class: str | None = Field(None, description="Your own Pipeline class, as module:Class.")
    token: SecretStr | None = Field(
        None, description="Hub token; better set HF_TOKEN in the environment. Never logged."
    )

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, values: Any) -> Any:
        if isinstance(values, str):
            return {"name": values}
        if not isinstance(values, dict):
            return values
        values = dict(values)
        for old, new in (("torch_dtype", "dtype"), ("use_auth_token", "token")):
            if old in values:
                if new in values:
                    raise ValueError(f"{old}: is the old name of {new}, which is given too. Drop {old}.")
                values[new] = values.pop(old)
        return values

    @field_validator("dtype", mode="before")
    @classmethod
    def _known_dtype(cls, value: Any) -> Any:
        name = str(value).removeprefix("torch.")
        name = {"fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32", "bf16": "bfloat16"}.get(
            name, name
        )
        if name not in DTYPES:
            raise ValueError(f"expected one of {', '.join(DTYPES)}; got {value!r}.{did_you_mean(name, DTYPES)}")
        return name

    @model_validator(mode="after")
    def _known_attention(self) -> ModelConfig:
        check_attention(self.attn_implementation, self.model_kwargs, self.trust_remote_code)
        return self

    @field_validator("pipeline_class")
    @classmethod
    def _importable_name(cls, value: str | None) -> str | None:
        if value is not None and value.count(":") != 1:
            raise ValueError(f"expected module:Class; got {value!r}.")
        return value

    @model_validator(mode="after")
    def _one_device(self) -> ModelConfig:
        if self.device is not None and self.device_map is not None:
            raise ValueError("device: excludes device_map. Keep one of them.")
        return self


class WorkersConfig(_Config):
    """How many workers hold the model, and what each of them gets; or the Serve application that holds it already.

    Also one text, `serve://NAME`, short for `{serve: NAME}`.
    """

    serve: str | None = Field(
        None,
        min_length=1,
        description="Name of a Serve application of the same task and model, whose replicas run the rows between "
        "online requests; no second copy of the model is loaded.",
    )
    serve_wait_s: float = Field(
        300,
        gt=0,
        description="Seconds that a job waits for an application that is gone, or of which no replica runs, before it "
        "fails. What is written stays.",
    )

    concurrency: int | tuple[int, int] | None = Field(
        None,
        description="Number of workers, or [least, most]; unset, one per GPU. Without GPUs one per core, as far as "
        "half of a node's memory and the rows are worth it; where num_cpus is set, one per node.",
    )
    num_gpus: float = Field(0, ge=0, description="GPUs of each worker; a fraction shares one.")
    num_cpus: float | None = Field(
        None,
        ge=0,
        description="CPUs of each worker; unset, 1 with a GPU, else a worker's part of a node but for one CPU.",
    )
    accelerator_type: str | None = Field(
        None, description="Kind of GPU that each worker needs, as Ray calls it: T4, L4, A10G, A100, H100, …"
    )
    label_selector: dict[str, str] = Field(
        default_factory=dict,
        description="Labels of the nodes that workers may run on, e.g. {ray.io/market-type: spot}; a value may be "
        '"!value", "in(a, b)" or "!in(a, b)".',
    )
    resources: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="Custom resources of each worker, as nodes of the cluster name them."
    )
    num_threads: int | None = Field(
        None, gt=0, description="Torch threads of each worker; unset, its part of the cores of its node."
    )
    stages: Literal["auto", "fused", "split"] = Field(
        "auto",
        description="fused: a worker does all of a row; split: CPU tasks preprocess and postprocess, workers only "
        "forward. auto splits where a GPU worker is fed with images, audio or video.",
    )
    timeout_s: float | None = Field(
        1200,
        gt=0,
        description="Seconds that one step (decoding or preprocessing a row, one forward of a batch) may take; a row "
        "that takes longer by itself is a dead letter. null for no limit, but Ray Data gives up after 30 minutes "
        "without progress.",
    )
    chunking: Literal["auto", "in_worker", "groupby"] = Field(
        "auto",
        description="How tasks with several forwards per row run. in_worker: all chunks of a row stay with one worker; "
        "groupby: chunks are spread over all workers and put together again by a shuffle. auto looks at the first rows "
        "and takes groupby where several workers would wait for a few long rows.",
    )
    autoscaling: bool = Field(
        False, description="The cluster grows on demand: start even if it cannot hold the workers yet."
    )

    @model_validator(mode="before")
    @classmethod
    def _application(cls, values: Any) -> Any:
        if not isinstance(values, str):
            return values
        if not values.startswith(SERVE):
            raise ValueError(f"expected a mapping, or {SERVE}NAME of a Serve application; got {values!r}.")
        return {"serve": values}

    @field_validator("serve")
    @classmethod
    def _name(cls, value: str | None) -> str | None:
        name = value.removeprefix(SERVE) if value is not None else None
        if name is not None and (not name or "/" in name):
            raise ValueError(f"expected the name of a Serve application; got {value!r}.")
        return name

    @model_validator(mode="after")
    def _either_workers_or_replicas(self) -> WorkersConfig:
        if self.serve is None:
            if "serve_wait_s" in self.model_fields_set:
                raise ValueError("serve_wait_s: has an effect only beside serve. Drop it.")
            return self
        unset = [name for name in OF_OWN_WORKERS if getattr(self, name) != type(self).model_fields[name].default]
        if unset:
            raise ValueError(f"{', '.join(unset)}: excludes serve, whose replicas have their own. Drop one.")
        return self

    @field_validator("concurrency")
    @classmethod
    def _positive(cls, value: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
        if value is not None:
            check_bounds(value, "worker")
        return value

    @field_validator("num_gpus")
    @classmethod
    def _whole_or_shared(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError(f"expected a part of one GPU, or a whole number; got {value:g}.")
        return value

    @field_validator("resources")
    @classmethod
    def _custom_names(cls, value: dict[str, float]) -> dict[str, float]:
        own = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "nothing, as rows differ in size"}
        for name in value.keys() & own.keys():
            raise ValueError(f"expected custom resources; got {name}. Set {own[name]} instead.")
        return value

    @model_validator(mode="after")
    def _kind_of_a_gpu(self) -> WorkersConfig:
        if self.accelerator_type is not None and not self.num_gpus:
            raise ValueError("accelerator_type: has no effect without num_gpus. Set workers.num_gpus.")
        return self

    @property
    def placement(self) -> dict[str, Any]:
        """What Ray is asked for besides CPUs and GPUs."""
        asked = {name: getattr(self, name) for name in ("accelerator_type", "label_selector", "resources")}
        return {name: value for name, value in asked.items() if value}


class BatchConfig(_Config):
    """How rows share a forward."""

    budget: Annotated[int, Field(gt=0)] | Literal["auto"] | None = Field(
        "auto",
        description="Padded cost of one forward at most: tokens (with those to generate), pixels, samples or frames. "
        "auto finds what is fastest on the device while the first rows run, and keeps it for the next run with the "
        "same model; null limits the number of rows only (max_size).",
    )
    max_size: int | None = Field(
        None, gt=0, description="Rows (or chunks) of one forward at most; unset, 256 on a CPU and 1,024 elsewhere."
    )
    window_rows: int | None = Field(
        None,
        gt=0,
        description="Rows that are sorted by length before they are cut into batches; unset, at least 512, and as many "
        "as fill 32 batches.",
    )
    window_chunks: int | None = Field(
        None,
        gt=0,
        description="Chunks that a worker takes at a time where workers.chunking is groupby, of any number of rows; "
        "unset, two forwards of max_size (of 32 where that is unset), fewer if they are large.",
    )
    max_memory_bytes: int | None = Field(
        None,
        gt=0,
        description="Memory that one forward on a CPU may take besides the weights; a batch that needs more is halved. "
        "Unset, 90 % of what the container or machine has free. Linux only; a GPU has its own limit.",
    )

    @property
    def rows_per_call(self) -> int:
        """Rows that a worker is handed at once."""
        return self.window_rows or ROWS_PER_CALL


class ReadConfig(_Config):
    """Where rows come from."""

    path: str | tuple[str, ...] = Field(description="File, folder or glob; local or a URI such as s3://bucket/folder.")
    format: ReadFormat | None = Field(None, description="Unset, by the files' extensions.")
    filesystem: FilesystemConfig = Field(
        default_factory=FilesystemConfig,
        description="How files are reached; also for media that rows name by URI, and for writing unless "
        "write.filesystem is set.",
    )
    partitions: dict[str, str | int | tuple[str | int, ...]] = Field(
        default_factory=dict,
        description="Values of partition columns (folders such as year=2026) to read; unset, all.",
    )
    columns: tuple[str, ...] | None = Field(
        None, description="Columns to read besides those of `inputs`; unset, all (write.columns narrows them)."
    )
    limit: int | None = Field(None, gt=0, description="Read only the first rows.")
    rows_per_block: int = Field(
        512, gt=0, description="Rows of one unit of work: what a worker takes, and what one output file holds."
    )

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths as a tuple."""
        return (self.path,) if isinstance(self.path, str) else self.path


class WriteConfig(_Config):
    """Where results and dead letters go."""

    path: str = Field(description="Folder for results/, dead_letters/, manifest.json and report.json; local or a URI.")
    format: WriteFormat = Field(
        "parquet",
        description="Format of results and dead letters; webdataset: .tar shards of each row's media and a .json with "
        "everything else, dead letters as jsonl.",
    )
    compression: Literal["auto", "none", "zstd", "snappy", "gzip", "lz4"] = Field(
        "auto", description="auto is zstd for parquet and none for the others, which also take gzip."
    )
    rows_per_row_group: int | None = Field(
        None, gt=0, description="Rows of one row group of parquet; unset, a file is one group of up to 1,048,576 rows."
    )
    rows_per_file: int | None = Field(
        None,
        gt=0,
        description="Rows of one file; unset, read.rows_per_block. More rows make fewer files, and more work to do "
        "again after a crash, as a file is written and counted whole.",
    )
    partition_by: tuple[str, ...] = Field(
        (), description="Columns whose values become folders of the results, such as language=en."
    )
    columns: tuple[str, ...] | None = Field(
        None, description="Columns of the input to keep beside the prediction; unset, all."
    )
    filesystem: FilesystemConfig | None = Field(
        None, description="How the output is reached; unset, as read.filesystem says."
    )
    mode: Literal["resume", "error", "overwrite"] = Field(
        "resume",
        description="resume: go on with an unfinished run of the same configuration, refuse a finished or a different "
        "one; error: refuse both; overwrite: start anew, and replace what is there when the new run is finished.",
    )

    @field_validator("path")
    @classmethod
    def _without_a_last_slash(cls, path: str) -> str:
        return path if path.endswith("://") else path.rstrip("/") or path

    @model_validator(mode="after")
    def _options_of_the_format(self) -> WriteConfig:
        known = COMPRESSIONS_OF[self.format]
        if self.compression not in known:
            raise ValueError(
                f"compression: expected one of {', '.join(known)} for {self.format}; got {self.compression}."
            )
        if self.rows_per_row_group is not None and self.format != "parquet":
            raise ValueError(f"rows_per_row_group: has no effect on {self.format}. Drop it, or write parquet.")
        return self


class Constant(_Config):
    """One value of an input for all rows."""

    constant: Any = Field(description="The value.")


def of_one_task(workers: WorkersConfig) -> dict[str, str]:
    """Settings of workers that are asked for and that several tasks cannot share: how a message names them.

    >>> of_one_task(WorkersConfig(stages="split"))
    {'stages': 'stages: split'}
    """
    found = {"serve": "serve"} if workers.serve is not None else {}
    alone = {"stages": "split", "chunking": "groupby"}
    return found | {name: f"{name}: {value}" for name, value in alone.items() if getattr(workers, name) == value}


Inputs = dict[str, str | list[Any] | Constant]


class TaskConfig(_Config):
    """One of several tasks of a job: its results are the column that has its name."""

    task: str = Field(description="Task id, as in a job of one task.")
    model: ModelConfig = Field(default_factory=ModelConfig, description="As in a job of one task.")
    parameters: dict[str, Any] = Field(default_factory=dict, description="Parameters of the task.")
    inputs: Inputs = Field(default_factory=dict, description="As in a job of one task, over `inputs` of the job.")
    batch: BatchConfig | None = Field(None, description="How its rows share a forward; unset, `batch` of the job.")
    optimize: OptimizeConfig = Field(default_factory=OptimizeConfig, description="What makes its model cheaper to run.")


class Job(_Config):
    """A job file."""

    task: str = Field(
        "",
        description="Task id, e.g. text-classification; `ray-pipelines tasks` lists them; required without tasks.",
    )
    tasks: dict[Annotated[str, Field(min_length=1)], TaskConfig] = Field(
        default_factory=dict,
        description="In place of task, model, parameters and optimize: several tasks by the name of the column of "
        "their results. Rows are read, fetched and decoded once for all of them; each worker holds all of the models.",
    )
    model: ModelConfig = Field(default_factory=ModelConfig, description="A hub id or folder, or a mapping.")
    parameters: dict[str, Any] = Field(default_factory=dict, description="Parameters of the task.")
    inputs: Inputs = Field(
        default_factory=dict,
        description="Input of the task: column, or a value for all rows as a list or {constant: value}. Unset, columns "
        "named like the inputs.",
    )
    read: ReadConfig
    write: WriteConfig
    workers: WorkersConfig = Field(default_factory=WorkersConfig)
    batch: BatchConfig = Field(default_factory=BatchConfig)
    optimize: OptimizeConfig = Field(default_factory=OptimizeConfig, description="What makes the model cheaper to run.")
    limits: MediaLimits = Field(default_factory=MediaLimits)
    seed: int = Field(0, description="With a row's content, the seed of that row where a task draws random numbers.")
    output_column: str = Field("prediction", min_length=1, description="Name of the column that holds the results.")
    prediction_type: Literal["task", "infer"] = Field(
        "task",
        description="task: results have the Arrow type of the task; infer: your own pipeline's results are left as "
        "they come, and the first rows are run to find their type.",
    )
    max_error_rate: float = Field(
        0.5, ge=0, le=1, description="The job fails once more than this share of the rows has failed."
    )
    max_errors: int | None = Field(
        None, ge=0, description="The job fails once more rows than this have failed; unset, only the share counts."
    )
    verify: int = Field(
        0,
        ge=0,
        le=10_000,
        description="Rows to check when the run is done, chosen at random: each is computed again by transformers' own "
        "pipeline, alone and in float32, and compared with what was written. Reads their files again.",
    )
    price_per_hour: float | None = Field(
        None, gt=0, description="Price of the machines per hour, in any currency; the report then has the run's cost."
    )
    serve: dict[str, Any] = Field(
        default_factory=dict, description="How `ray-pipelines serve` answers; a run leaves it aside."
    )

    @property
    def read_filesystem(self) -> FilesystemConfig:
        """How the input is reached, as this process's environment completes it; asked for on the driver."""
        return self.read.filesystem.resolved()

    @property
    def write_filesystem(self) -> FilesystemConfig:
        """How the output is reached, as this process's environment completes it; asked for on the driver."""
        own = self.write.filesystem
        # A public bucket is read without credentials, but nobody writes without any.
        inherited = self.read.filesystem.model_copy(update={"anonymous": False})
        return (own if own is not None else inherited).resolved()

    @property
    def parts(self) -> dict[str, Job]:
        """Column of results: the job of that task alone; a job of one task is its only part."""
        if not self.tasks:
            return {self.output_column: self}
        return {name: self._part(name, one) for name, one in self.tasks.items()}

    def where_of(self, name: str) -> str:
        """What comes before the settings of a part, as in `tasks.NAME.model`; nothing in a job of one task."""
        return f"tasks.{name}." if self.tasks else ""

    def _part(self, name: str, one: TaskConfig) -> Job:
        own = {key: getattr(one, key) for key in ("task", "model", "parameters", "optimize")}
        task = tasks.resolve(one.task, has_own_pipeline=True)
        shared = {field.name: self.inputs[field.name] for field in task.inputs if field.name in self.inputs}
        own |= {"tasks": {}, "inputs": {**shared, **one.inputs}, "batch": one.batch or self.batch}
        return self.model_copy(update={**own, "output_column": name})

    @model_validator(mode="after")
    def _one_task_or_several(self) -> Job:
        if not self.tasks:
            if not self.task:
                raise ValueError(TASK_IS_REQUIRED)
            return self
        if twice := [name for name in OF_ONE_TASK if name in self.model_fields_set]:
            raise ValueError(f"{', '.join(twice)}: excludes tasks, each of which has its own. Drop one.")
        if "error" in self.tasks:
            raise ValueError(ERROR_IS_A_COLUMN)
        if alone := of_one_task(self.workers):
            found = ", ".join(f"workers.{setting}" for setting in alone.values())
            raise ValueError(
                f"{found}: excludes tasks: a worker does all of a row, for all of the tasks. Drop it, or "
                "run a job for each task."
            )
        return self

    @model_validator(mode="after")
    def _savings_go_together(self) -> Job:
        for name, one in self.tasks.items():
            for problem in one.optimize.problems(one.model, self.workers.num_gpus):
                raise ValueError(f"tasks.{name}.{problem}")
        self.optimize.check(self.model, self.workers.num_gpus)
        return self

    @model_validator(mode="after")
    def _replicas_have_a_task(self) -> Job:
        if self.workers.serve is not None and (self.model.pipeline_class or self.prediction_type == "infer"):
            raise ValueError("workers.serve: excludes a pipeline of your own, which no application serves.")
        return self


def input_problems(task: tasks.Task, inputs: Mapping[str, Any], columns: Sequence[str] | None = None) -> list[str]:
    """What is wrong with a mapping of the task's fields to columns.

    Args:
        task: The task.
        inputs: Field: column.
        columns: The columns that the dataset has, where known.
    """
    problems: list[str] = []
    mapped, _ = split_inputs(inputs)
    for name in inputs:
        try:
            task.field(name)
        except ConfigError as error:
            problems += error.problems
    for name, column in mapped.items():
        if columns is not None and column not in columns:
            hint = did_you_mean(str(column), columns)
            problems.append(f'inputs.{name}: the dataset has no column "{column}".{hint} It has: {", ".join(columns)}.')
    if inputs:
        missing = [name for name in task.required_inputs if name not in inputs]
        problems += [f"inputs.{name}: is required by {task.name}; map it to a column." for name in missing]
    return problems


def chunking_problems(task: tasks.Task, workers: WorkersConfig, batch: BatchConfig) -> list[str]:
    """What is wrong with the settings of chunks for a task."""
    problems = []
    if workers.chunking == "groupby":
        if task.chunked is False:
            problems.append(
                f"workers.chunking: expected auto; got groupby. {task.name} makes one forward of each row: there "
                "are no chunks to spread."
            )
        elif not task.splittable and task.result_type is not None:
            problems.append(
                f"workers.chunking: expected in_worker; got groupby. {task.name} cannot be split into stages."
            )
        if workers.stages == "fused":
            problems.append(
                "workers.stages: excludes workers.chunking: groupby, which has stages of its own. Drop one."
            )
    if batch.window_chunks is not None and (workers.chunking == "in_worker" or task.chunked is False):
        problems.append("batch.window_chunks: has an effect only where chunks are spread (workers.chunking: groupby).")
    return problems


def split_inputs(inputs: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """The inputs that are columns, and those that are one value for all rows.

    >>> split_inputs({"text": "review", "candidate_labels": ["good", "bad"]})
    ({'text': 'review'}, {'candidate_labels': ['good', 'bad']})
    """
    columns = {name: value for name, value in inputs.items() if isinstance(value, str)}
    constants = {name: value for name, value in inputs.items() if not isinstance(value, str)}
    for name, value in constants.items():
        if isinstance(value, Constant):
            constants[name] = value.constant
        elif isinstance(value, dict) and set(value) == {"constant"}:
            constants[name] = value["constant"]
    return columns, constants
