"""What results come from: the configuration that determines them, and the versions that made them.

Two runs with the same configuration may share a folder, as one goes on where the other ended; two with different ones
never mix. Versions only warn: a library's update does not make half a run worthless.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Secret, SecretStr

import ray_pipelines
from ray_pipelines.config import Job
from ray_pipelines.data.read import Input
from ray_pipelines.engine.hub import PinnedModel
from ray_pipelines.engine.identity import code_of_class, model_identity

__all__ = ["configuration", "job_values", "provenance", "versions"]

LIBRARIES = ("ray", "torch", "transformers", "pyarrow")


def configuration(job: Job, source: Input, models: Mapping[str, PinnedModel]) -> dict[str, Any]:
    """Everything that determines what a run writes, by name; how fast it does so is not part of it."""
    values: dict[str, Any] = {
        "seed": job.seed,
        "limits": job.limits.model_dump(mode="json"),
        "prediction_type": job.prediction_type,
        "read.path": list(job.read.paths),
        "read.format": source.read_format,
        "read.partitions": job.read.partitions,
        "read.limit": job.read.limit,
        "columns": list(source.kept_columns),
        "write.format": job.write.format,
        "write.partition_by": list(job.write.partition_by),
    }
    for name, part in job.parts.items():
        own = _of_part(part, source.inputs[name], models[name])
        values |= {job.where_of(name) + key: value for key, value in own.items()}
    plain = json.loads(json.dumps(values, default=_plain))
    assert isinstance(plain, dict)
    return plain


def _of_part(job: Job, inputs: Mapping[str, Any], model: PinnedModel) -> dict[str, Any]:
    """What determines the results of one task."""
    values: dict[str, Any] = {
        "task": job.task,
        **model_identity(model, job.optimize),
        "parameters": job.parameters,
        "inputs": inputs,
        "output_column": job.output_column,
    }
    if job.model.pipeline_class:
        values["model.pipeline_class code"] = code_of_class(job.model.pipeline_class)
    return values


def provenance(job: Job, models: Mapping[str, PinnedModel], run_id: str) -> dict[str, Any]:
    """What stands in the metadata of every output file."""
    parts = {name: _origin_of_part(part, models[name]) for name, part in job.parts.items()}
    if job.tasks:
        names = {key: ", ".join(str(part[key]) for part in parts.values()) for key in ("task", "model")}
        origin = {**names, "tasks": parts}
    else:
        (origin,) = parts.values()
    return {
        "run_id": run_id,
        **origin,
        "seed": job.seed,
        "workers": f"serve://{job.workers.serve}" if job.workers.serve else "own",
        "job_sha256": hashlib.sha256(json.dumps(job_values(job), sort_keys=True).encode()).hexdigest(),
        "versions": versions(),
    }


def _origin_of_part(job: Job, model: PinnedModel) -> dict[str, Any]:
    """What the results of one task come from."""
    return {
        "task": job.task,
        "model": str(model),
        "model_commits": {name: part.commit for name, part in model.sources.items() if part.commit},
        "parameters": job.parameters,
        "dtype": job.model.dtype,
        "attn_implementation": job.model.attn_implementation,
        "optimize": list(job.optimize.names),
    }


def job_values(job: Job) -> dict[str, Any]:
    """The job as its file has it, without secrets and without what has its default."""
    values = _without_secrets(job)
    assert isinstance(values, dict)
    plain = json.loads(json.dumps(values, default=str))
    assert isinstance(plain, dict)
    return plain


def versions() -> dict[str, str]:
    """Versions of this package, of its code, and of the libraries that make results."""
    libraries = {name: version(name) for name in LIBRARIES}
    return {"ray_pipelines": ray_pipelines.__version__, "ray_pipelines_code": _own_code(), **libraries}


def _without_secrets(value: Any) -> Any:
    if isinstance(value, BaseModel):
        fields = ((name, getattr(value, name)) for name in sorted(value.model_fields_set))
        return {name: _without_secrets(item) for name, item in fields if not isinstance(item, Secret | SecretStr)}
    if isinstance(value, Mapping):
        return {key: _without_secrets(item) for key, item in value.items() if not isinstance(item, Secret | SecretStr)}
    if isinstance(value, list | tuple):
        return [_without_secrets(item) for item in value]
    return value


@cache
def _own_code() -> str:
    digest = hashlib.blake2b(digest_size=8)
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)
