"""What of a loaded model determines its results, by name: to tell whether two processes would compute the same."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_pipelines.engine.hub import PinnedModel, Source
from ray_pipelines.optimize import OptimizeConfig

__all__ = ["code_of_class", "differences", "digest_of", "model_identity"]

SETTINGS = {"dtype", "attn_implementation", "model_kwargs", "use_fast", "trust_remote_code", "pipeline_class"}
SAMPLED_BYTES = 64 << 10
NUM_SAMPLES = 8


def model_identity(model: PinnedModel, optimize: OptimizeConfig) -> dict[str, Any]:
    """The commits (or the folders' content), and the settings that change what the model computes, as plain values."""
    settings = model.config.model_dump(mode="json", include=SETTINGS)
    values = {
        **{f"model.{name}": _identity(part) for name, part in model.sources.items()},
        **{f"model.{name}": value for name, value in settings.items()},
        "optimize": list(optimize.names),
    }
    plain = json.loads(json.dumps(values, default=str))
    assert isinstance(plain, dict)
    return plain


def differences(then: Mapping[str, Any], now: Mapping[str, Any], verbs: tuple[str, str] = ("was", "is")) -> list[str]:
    """What is different between two sets of values, for people.

    >>> differences({"seed": 0, "task": "a"}, {"seed": 1, "task": "a"})
    ['seed was 0, is 1']
    """
    return [
        f"{key} {verbs[0]} {_short(then.get(key))}, {verbs[1]} {_short(now.get(key))}"
        for key in sorted({*then, *now})
        if then.get(key) != now.get(key)
    ]


def digest_of(*values: Any) -> str:
    """A short fingerprint of plain values."""
    return hashlib.blake2b(json.dumps(values, sort_keys=True, default=str).encode(), digest_size=4).hexdigest()


def code_of_class(name: str) -> str | None:
    """A fingerprint of the file that holds a class."""
    spec = importlib.util.find_spec(name.partition(":")[0])
    if spec is None or spec.origin is None:
        return None
    return hashlib.blake2b(Path(spec.origin).read_bytes(), digest_size=8).hexdigest()


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


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:79] + "…"
