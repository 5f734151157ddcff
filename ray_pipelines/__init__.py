"""Any Hugging Face pipeline task over a dataset of any size on Ray.

    import ray, ray_pipelines as rp

    spec = rp.pipeline("text-classification", model="org/model", num_gpus=1)
    dataset = spec(ray.data.read_parquet("s3://bucket/in"), text="review")   # lazy: adds `prediction` and `error`
    results = spec.run(["Great!", "Never again."])                           # the same here and now, without Ray

Importing this package loads neither ray, torch nor transformers.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray_pipelines import tasks
    from ray_pipelines.config import Job
    from ray_pipelines.data.arguments import pipeline
    from ray_pipelines.data.job import JobResult, check_job, run_job
    from ray_pipelines.data.output import RunOutput, read_output
    from ray_pipelines.data.pipeline import PipelineSpec
    from ray_pipelines.data.pipelines import PipelinesSpec, pipelines
    from ray_pipelines.data.retry import job_of_retry, retry_job
    from ray_pipelines.errors import (
        ConfigError,
        JobError,
        ModelLoadError,
        RayPipelinesError,
        ResourceError,
        RowError,
        StorageError,
        TooManyErrors,
    )
    from ray_pipelines.job_file import read_job

__all__ = [
    "ConfigError",
    "Job",
    "JobError",
    "JobResult",
    "ModelLoadError",
    "PipelineSpec",
    "PipelinesSpec",
    "RayPipelinesError",
    "ResourceError",
    "RowError",
    "RunOutput",
    "StorageError",
    "TooManyErrors",
    "check_job",
    "job_of_retry",
    "pipeline",
    "pipelines",
    "read_job",
    "read_output",
    "retry_job",
    "run_job",
    "tasks",
]

try:
    __version__ = version("ray-pipelines")
except PackageNotFoundError:
    __version__ = "0.0.0"

_MODULES = {
    "Job": "config",
    "read_job": "job_file",
    "JobResult": "data.job",
    "RunOutput": "data.output",
    "read_output": "data.output",
    "job_of_retry": "data.retry",
    "retry_job": "data.retry",
    "check_job": "data.job",
    "run_job": "data.job",
    "PipelineSpec": "data.pipeline",
    "PipelinesSpec": "data.pipelines",
    "pipelines": "data.pipelines",
    "pipeline": "data.arguments",
}


def __getattr__(name: str) -> Any:
    if name == "tasks":
        return importlib.import_module("ray_pipelines.tasks")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"ray_pipelines.{_MODULES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
