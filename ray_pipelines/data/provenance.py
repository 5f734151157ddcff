"""What results come from: the configuration that determines them, and the versions that made them.

Two runs with the same configuration may share a folder, as one goes on where the other ended; two with different ones
never mix. Versions only warn: a library's update does not make half a run worthless.
"""

from __future__ import annotations

import hashlib
import importlib.util
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
from ray_pipelines.engine.hub import PinnedModel, Source

__all__ = ["configuration", "differences", "digest_of", "job_values", "provenance", "versions"]

LIBRARIES = ("ray", "torch", "transformers", "pyarrow")
SAMPLED_BYTES = 64 << 10
NUM_SAMPLES = 8


def configuration(job: Job, source: Input, model: PinnedModel) -> dict[str, Any]:
    """Everything that determines what a run writes, by name; how fast it does so is not part of it."""
    settings = job.model.model_dump(
        mode="json",
        include={"dtype", "attn_implementation", "model_kwargs", "use_fast", "trust_remote_code", "pipeline_class"},
    )
    values: dict[str, Any] = {
        "task": job.task,
        **{f"model.{name}": _identity(part) for name, part in model.sources.items()},
        **{f"model.{name}": value for name, value in settings.items()},
        "parameters": job.parameters,
        "inputs": source.inputs,
        "seed": job.seed,
        "optimize": list(job.optimize.names),
        "limits": job.limits.model_dump(mode="json"),
        "output_column": job.output_column,
        "prediction_type": job.prediction_type,
        "read.path": list(job.read.paths),
        "read.format": source.read_format,
        "read.partitions": job.read.partitions,
        "read.limit": job.read.limit,
        "columns": list(source.kept_columns),
        "write.format": job.write.format,
    }
    if job.model.pipeline_class:
        values["model.pipeline_class code"] = _code_of_class(job.model.pipeline_class)
    plain = json.loads(json.dumps(values, default=_plain))
    assert isinstance(plain, dict)
    return plain


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is different between two configurations, for people.

    >>> differences({"seed": 0, "task": "a"}, {"seed": 1, "task": "a"})
    ['seed was 0, is 1']
    """
    return [
        f"{key} was {_short(then.get(key))}, is {_short(now.get(key))}"
        for key in sorted({*then, *now})
        if then.get(key) != now.get(key)
    ]


def provenance(job: Job, model: PinnedModel, run_id: str) -> dict[str, Any]:
    """What stands in the metadata of every output file."""
    commits = {name: part.commit for name, part in model.sources.items() if part.commit}
    return {
        "run_id": run_id,
        "task": job.task,
        "model": str(model),
        "model_commits": commits,
        "parameters": job.parameters,
        "dtype": job.model.dtype,
        "attn_implementation": job.model.attn_implementation,
        "optimize": list(job.optimize.names),
        "seed": job.seed,
        "job_sha256": hashlib.sha256(json.dumps(job_values(job), sort_keys=True).encode()).hexdigest(),
        "versions": versions(),
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


def digest_of(*values: Any) -> str:
    """A short fingerprint of plain values."""
    return hashlib.blake2b(json.dumps(values, sort_keys=True, default=str).encode(), digest_size=4).hexdigest()


def _without_secrets(value: Any) -> Any:
    if isinstance(value, BaseModel):
        fields = ((name, getattr(value, name)) for name in sorted(value.model_fields_set))
        return {name: _without_secrets(item) for name, item in fields if not isinstance(item, Secret | SecretStr)}
    if isinstance(value, Mapping):
        return {key: _without_secrets(item) for key, item in value.items() if not isinstance(item, Secret | SecretStr)}
    if isinstance(value, list | tuple):
        return [_without_secrets(item) for item in value]
    return value


def _identity(source: Source) -> str:
    if source.commit:
        return f"{source.name}@{source.commit}"
    folder = Path(source.folder or source.name)
    return f"folder {folder.name} ({_digest_of_folder(folder)})"


def _digest_of_folder(folder: Path) -> str:
    """A fingerprint of a model's files: names, sizes and samples of the content, so that it is quick for any size."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)}\0{size}\n".encode())
        with path.open("rb") as file:
            step = max(SAMPLED_BYTES, (size - SAMPLED_BYTES) // NUM_SAMPLES or 1)
            for start in range(0, size, step):
                file.seek(start)
                digest.update(file.read(SAMPLED_BYTES))
    return digest.hexdigest()


def _code_of_class(name: str) -> str | None:
    """A fingerprint of the file that holds a class."""
    spec = importlib.util.find_spec(name.partition(":")[0])
    if spec is None or spec.origin is None:
        return None
    return hashlib.blake2b(Path(spec.origin).read_bytes(), digest_size=8).hexdigest()


@cache
def _own_code() -> str:
    digest = hashlib.blake2b(digest_size=8)
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:79] + "…"
