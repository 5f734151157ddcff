"""What an endpoint is: the specification of a job without its dataset, and what clients may ask of it.

serving = read_serving("jobs/text-classification.yaml")     # a job file serves, too: read, write, … are left aside
serving = Serving(task="text-classification", model="org/model")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ray_pipelines import tasks
from ray_pipelines.config import BatchConfig, MediaLimits, ModelConfig, OptimizeConfig, WorkersConfig
from ray_pipelines.errors import ConfigError
from ray_pipelines.job_file import read_values
from ray_pipelines.tasks._old_names import modern_parameters
from ray_pipelines.validation import bounds_of, check_bounds, describe_validation_error

__all__ = ["ClientLimits", "ServeConfig", "Serving", "read_serving", "validate_serving"]

OF_JOBS = ("read", "write", "inputs", "output_column", "prediction_type", "max_error_rate", "max_errors", "verify",
           "price_per_hour")  # fmt: skip
"""Keys of a job file that say nothing about an endpoint."""


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ClientLimits(_Config):
    """What one request may ask for; beyond it the answer is 413 or 422, before any work begins."""

    max_body_bytes: int = Field(16 << 20, gt=0, description="Bytes of one request.")
    max_inputs: int = Field(128, gt=0, description="Inputs of one request, where it has a list of them.")
    max_text_chars: int = Field(1_000_000, gt=0, description="Characters of one text.")
    max_table_chars: int = Field(
        50_000, gt=0, description="Characters of one table as JSON, times the number of questions about it."
    )
    max_tokens: int = Field(8192, gt=0, description="Tokens of one input; the model's own positions if less.")
    max_labels: int = Field(200, gt=0, description="Candidate labels, or other choices, of one request.")
    max_new_tokens: int = Field(2048, gt=0, description="New tokens of one generated text.")
    max_sequences: int = Field(8, gt=0, description="Beams and returned sequences of a generation.")
    max_results: int = Field(1000, gt=0, description="Results (top_k) of one input, for all its masks.")
    max_answer_bytes: int = Field(
        64 << 20, gt=0, description="Bytes of one answer in JSON, as estimated before it is written."
    )
    max_chunks: int = Field(512, gt=0, description="Forwards that one input may need.")
    max_points: int = Field(
        8192, gt=0, description="Points of one image and its crops that a request may ask mask-generation for."
    )
    max_pixels: int = Field(50_000_000, gt=0, description="Pixels of one image or frame; limits.max_pixels if less.")
    max_aspect_ratio: float = Field(
        200, ge=1, description="Longer by shorter side of an image or frame; limits.max_aspect_ratio if less."
    )
    max_seconds: float = Field(600, gt=0, description="Seconds of one recording; limits.max_seconds if less.")
    max_frames: int = Field(2_000, gt=0, description="Frames of one video; limits.max_frames if less.")
    max_total_pixels: int = Field(300_000_000, gt=0, description="Pixels of all images of one request together.")
    max_total_seconds: float = Field(1200, gt=0, description="Seconds of all recordings of one request together.")
    max_total_frame_pixels: int = Field(
        5_000_000_000,
        gt=0,
        description="Pixels of all frames of all videos of one request together, also those that no model looks at.",
    )


class ServeConfig(_Config):
    """How an endpoint answers."""

    name: str = Field("pipeline", min_length=1, description="Name of the Serve application, as in serve://NAME.")
    route_prefix: str = Field("/", pattern="^/", description="Path under which the endpoint answers.")
    replicas: int | tuple[int, int] = Field(
        1, description="Number of replicas, or [least, most] for autoscaling by online requests."
    )
    requests_per_replica: float = Field(
        8, gt=0, description="Online requests at work in each replica that autoscaling aims for."
    )
    scale_on_batch: bool = Field(False, description="Rows of batch jobs that wait also call for replicas.")
    upscale_delay_s: float = Field(
        30, ge=1, description="Seconds for which more replicas must have been needed before one is added."
    )
    downscale_delay_s: float = Field(
        600, ge=1, description="Seconds for which fewer replicas must have been enough before one is taken away."
    )
    limits: ClientLimits = Field(default_factory=ClientLimits, description="What one request may ask for.")
    max_queue_s: float = Field(
        10, gt=0, description="Estimated seconds of work in the queue beyond which requests get 429 and Retry-After."
    )
    max_queue_requests: int = Field(1024, gt=0, description="Requests in the queue beyond which they get 429.")
    max_queue_bytes: int = Field(
        256 << 20, gt=0, description="Bytes of all requests at work beyond which further ones get 429."
    )
    timeout_s: float = Field(60, gt=0, description="Seconds after which a request gets 504 and is dropped.")
    slice_budget_ms: float = Field(
        20,
        gt=0,
        description="How long a batch job's slice may keep online requests waiting, once there are some; longer, up "
        "to 100 ms, where their own forwards take long.",
    )
    open_to_all: bool = Field(
        True, description="Answer without a key where RAY_PIPELINES_API_KEYS is not set; false refuses to start."
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description="Hosts from which images and recordings may be fetched by URL; none by default."
    )

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and the most replicas."""
        return bounds_of(self.replicas)

    @field_validator("replicas")
    @classmethod
    def _positive(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        check_bounds(value, "replica")
        return value


class Serving(_Config):
    """One model behind one endpoint."""

    task: str = Field(description="Task id, e.g. text-classification.")
    model: ModelConfig = Field(default_factory=ModelConfig, description="A hub id or folder, or a mapping.")
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="Parameters of the task; a request's own take their place."
    )
    workers: WorkersConfig = Field(
        default_factory=WorkersConfig, description="What each replica gets: num_gpus, num_cpus, num_threads."
    )
    batch: BatchConfig = Field(default_factory=BatchConfig, description="How requests share a forward.")
    optimize: OptimizeConfig = Field(default_factory=OptimizeConfig, description="What makes the model cheaper to run.")
    limits: MediaLimits = Field(default_factory=MediaLimits, description="What decoding may cost.")
    seed: int = Field(0, description="With an input's content, its seed where a task draws random numbers.")
    serve: ServeConfig = Field(default_factory=ServeConfig, description="How the endpoint answers.")

    @model_validator(mode="after")
    def _has_the_model(self) -> Serving:
        if self.workers.serve is not None:
            raise ValueError(
                "workers.serve: names an application for a job's rows; what serves has the model itself. Say "
                "--set 'workers={}', or what each replica gets."
            )
        return self

    @property
    def num_cpus(self) -> float:
        """CPUs of a replica."""
        return 1 if self.workers.num_cpus is None else self.workers.num_cpus

    def media_limits(self) -> MediaLimits:
        """The stricter of the specification's limits and those for clients."""
        own, client = self.limits, self.serve.limits
        return MediaLimits(
            max_pixels=min(own.max_pixels, client.max_pixels),
            max_aspect_ratio=min(own.max_aspect_ratio, client.max_aspect_ratio),
            max_taken_pixels=own.max_taken_pixels,
            max_seconds=min(own.max_seconds, client.max_seconds),
            max_frames=min(own.max_frames, client.max_frames),
            max_bytes=min(own.max_bytes, client.max_body_bytes),
        )


def read_serving(path: str | Path, overrides: Sequence[str] = ()) -> Serving:
    """The endpoint that a YAML file describes: a serving file, or a job file, whose dataset is left aside.

    Raises:
        ConfigError: One line per problem.
    """
    values = read_values(path, overrides)
    return validate_serving({name: value for name, value in values.items() if name not in OF_JOBS})


def validate_serving(values: Mapping[str, Any]) -> Serving:
    """The endpoint that `values` describe, with the task's parameters checked.

    Raises:
        ConfigError: One line per problem.
    """
    problems: list[str] = []
    serving = None
    if "tasks" in values:
        raise ConfigError("tasks: expected one task, as an endpoint has one model; got several. Serve each by itself.")
    try:
        task = tasks.get(str(values.get("task")))
        parameters = modern_parameters(task.name, dict(values.get("parameters") or {}))
        values = {**values, "parameters": parameters}
        tasks.validate_parameters(task, parameters)
    except ConfigError as error:
        problems += error.problems
    try:
        serving = Serving.model_validate(dict(values))
    except ValidationError as error:
        problems += describe_validation_error(error, "", Serving)
    if problems or serving is None:
        raise ConfigError(problems)
    return serving
