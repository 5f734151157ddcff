"""A model's name to a commit, once, and the commit to a folder of this node, once.

`resolve_model` runs where a job starts: whatever a branch points to while the job runs, every worker loads the same
commit. `stage` runs on each node: the first worker downloads under a lock, the others wait and find a complete folder.
Workers then load from the folder, and ask the hub for nothing.

A name that is a folder on this machine is used as it is.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ray_pipelines.config import ModelConfig
from ray_pipelines.errors import ConfigError, ModelLoadError

__all__ = [
    "PinnedModel",
    "Source",
    "default_model",
    "go_offline",
    "looks_like_path",
    "resolve",
    "resolve_model",
    "stage",
]

logger = logging.getLogger(__name__)

COMPONENTS = ("config", "tokenizer", "feature_extractor", "image_processor", "processor", "video_processor")
NEVER_NEEDED = ("*.h5", "*.msgpack", "*.ot", "*.tflite", "*.onnx", "*.onnx_data", "onnx/*", "openvino/*", "*.gguf")
OTHER_WEIGHTS = ("*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt")
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", *OTHER_WEIGHTS)


@dataclass(frozen=True)
class Source:
    """Where files come from.

    Attributes:
        name: Hub id, or folder as the user named it.
        commit: The hub commit; None for a folder.
        has_safetensors: Whether weights in other formats can be left on the hub.
        folder: The folder's absolute path where it was named, for processes that start elsewhere.
        num_bytes: Size of the files with weights; None where it is unknown.
    """

    name: str
    commit: str | None = None
    has_safetensors: bool = False
    folder: str | None = None
    num_bytes: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.name}@{self.commit[:12]}" if self.commit else self.name


@dataclass(frozen=True)
class PinnedModel:
    """A model whose names are pinned to commits, ready to be sent to workers.

    Attributes:
        config: As the user wrote it.
        sources: Where the model (`name`) and the components that have a source of their own come from.
        instances: Objects that the user passed in place of names: `model`, a component, or `pipeline_class`.
    """

    config: ModelConfig
    sources: Mapping[str, Source]
    instances: Mapping[str, Any] = field(default_factory=dict)

    @property
    def token(self) -> str | None:
        """The hub token, in clear."""
        return self.config.token.get_secret_value() if self.config.token else None

    @property
    def num_bytes(self) -> int | None:
        """Size of the weights; None where it is unknown."""
        model = self.instances.get("model")
        if model is not None:
            return sum(value.nbytes for value in model.parameters()) if hasattr(model, "parameters") else None
        sizes = [self.sources[name].num_bytes for name in ("name", "assistant_model") if name in self.sources]
        return sum(size or 0 for size in sizes) or None

    def __str__(self) -> str:
        return str(self.sources["name"]) if "name" in self.sources else type(self.instances["model"]).__name__


def resolve_model(task_name: str, config: ModelConfig, instances: Mapping[str, Any] | None = None) -> PinnedModel:
    """The model with every name pinned to a commit, and the task's default model where none is named.

    Raises:
        ConfigError: A name looks like a path but is no folder, or the task has no default model.
        ModelLoadError: The hub does not have a name, or cannot be reached.
    """
    instances = dict(instances or {})
    token = config.token.get_secret_value() if config.token else None
    sources: dict[str, Source] = {}
    if "model" not in instances:
        name, revision = config.name, config.revision
        if name is None:
            name, default_revision = default_model(task_name)
            revision = revision or default_revision
        sources["name"] = resolve(name, revision, token)
    for component in (*COMPONENTS, "assistant_model"):
        value = getattr(config, component)
        if value is not None and component not in instances:
            sources[component] = resolve(value, None, token)
    return PinnedModel(config, sources, instances)


def default_model(task_name: str) -> tuple[str, str | None]:
    """Hub id and revision of the model that transformers pins for a task.

    Raises:
        ConfigError: It has none.
    """
    from transformers.pipelines import PIPELINE_REGISTRY

    from ray_pipelines.engine import pipelines

    pipelines.register(task_name)
    try:
        _, implementation, _ = PIPELINE_REGISTRY.check_task(task_name)
    except KeyError:
        raise ConfigError(f"model.name: {task_name} has no default model. Name one.") from None
    default = implementation.get("default", {}).get("model")
    if isinstance(default, dict):
        default = default.get("pt")
    if not default:
        raise ConfigError(f"model.name: {task_name} has no default model. Name one.")
    name, revision = default
    logger.warning("No model is named; using %s at %s, the default of %s.", name, revision, task_name)
    return name, revision


def resolve(name: str, revision: str | None = None, token: str | bool | None = None) -> Source:
    """The commit that `name` and `revision` mean now; a folder stays a folder.

    Args:
        name: Hub id (`org/model`) or local folder.
        revision: Branch, tag or commit; None is the main branch.
        token: Hub token; None takes the one of the environment.

    Raises:
        ConfigError: `name` looks like a path, but there is no such folder.
        ModelLoadError: The hub does not have it, or cannot be reached and the local cache does not have it either.
    """
    if Path(name).is_dir():
        return _of_folder(Path(name), Source(name, folder=str(Path(name).resolve())))
    if looks_like_path(name):
        raise ConfigError(f"model.name: expected a hub id or an existing folder; there is no folder {name!r}.")
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"model {name!r}" + (f" at revision {revision!r}" if revision else "")
    try:
        info = HfApi(token=token).model_info(name, revision=revision, files_metadata=True)
    except GatedRepoError:
        raise ModelLoadError(f"{where}: is gated. Accept its terms on the hub and set HF_TOKEN.") from None
    except RepositoryNotFoundError:
        raise ModelLoadError(
            f"{where}: the hub has no such model, or it is private. Check the id and HF_TOKEN."
        ) from None
    except RevisionNotFoundError:
        raise ModelLoadError(f"{where}: the hub has no such revision. Check model.revision.") from None
    except HFValidationError as error:
        raise ConfigError(f"model.name: {error}") from None
    except (OfflineModeIsEnabled, HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        return _resolve_in_cache(name, revision, where, error)
    if info.sha is None:
        raise ModelLoadError(f"{where}: the hub names no commit.")
    _remember(name, revision, info.sha)
    return _with_size(Source(name, info.sha), {file.rfilename: file.size or 0 for file in info.siblings or []})


def _of_folder(folder: Path, source: Source) -> Source:
    return _with_size(source, {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()})


def _with_size(source: Source, sizes: Mapping[str, int]) -> Source:
    """The source with what its files say: the format of the weights, and their size."""
    has_safetensors = any(name.endswith(".safetensors") for name in sizes)
    kinds = ("*.safetensors",) if has_safetensors else OTHER_WEIGHTS
    num_bytes = sum(size for name, size in sizes.items() if "/" not in name and any(fnmatch(name, k) for k in kinds))
    return dataclasses.replace(source, has_safetensors=has_safetensors, num_bytes=num_bytes or None)


def _remember(name: str, revision: str | None, commit: str) -> None:
    """Notes in the hub's cache what a branch or tag means, as a download by its name would."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    if revision == commit:
        return
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    note = folder / "refs" / (revision or constants.DEFAULT_REVISION)
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(commit)
    except OSError as error:
        logger.warning("The hub's cache cannot be written to: %s.", error)


def _resolve_in_cache(name: str, revision: str | None, where: str, error: Exception) -> Source:
    from huggingface_hub import try_to_load_from_cache

    for file in ("config.json", "preprocessor_config.json", "tokenizer_config.json"):
        cached = try_to_load_from_cache(name, file, revision=revision)
        if isinstance(cached, str):
            snapshot = Path(cached).parent
            return _of_folder(snapshot, Source(name, snapshot.name))
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        raise ModelLoadError(
            f"{where}: HF_HUB_OFFLINE is set, and the local cache does not have it. Unset it, or name a folder that "
            "has the model."
        ) from None
    raise ModelLoadError(
        f"{where}: the hub cannot be reached ({type(error).__name__}), and the local cache does not have it. Check the "
        "network, a proxy (HTTPS_PROXY) and HF_ENDPOINT, or name a folder that has the model."
    ) from None


def looks_like_path(name: str) -> bool:
    """Whether a name cannot be a hub id, so that it must be a folder.

    >>> looks_like_path("./my-model"), looks_like_path("org/model")
    (True, False)
    """
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def stage(source: Source, token: str | bool | None = None, *, weights: bool = True) -> Path:
    """The folder of this node with the files of `source`, downloaded if no worker has done so yet.

    Args:
        source: Where they come from.
        token: Hub token.
        weights: Whether the weights are needed; a node that only preprocesses leaves them on the hub.

    Raises:
        ModelLoadError: A folder is not on this node, or the download failed.
    """
    if source.commit is None:
        found = [Path(path) for path in (source.name, source.folder) if path and Path(path).is_dir()]
        if not found:
            raise ModelLoadError(
                f"model {source.name!r}: there is no such folder on node {os.uname().nodename}. Put it on storage that "
                "all nodes share, or use a hub id."
            )
        return found[0].resolve()
    import httpx2
    from filelock import FileLock
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    locks = Path(constants.HF_HUB_CACHE) / ".ray_pipelines"
    locks.mkdir(parents=True, exist_ok=True)
    key = f"{source.name.replace('/', '--')}--{source.commit}"
    complete = locks / f"{key}.complete"
    if not weights and not complete.exists():
        complete = locks / f"{key}.without_weights"
    unneeded = [*NEVER_NEEDED, *(OTHER_WEIGHTS if source.has_safetensors else ()), *(() if weights else WEIGHTS)]
    with FileLock(locks / f"{key}.lock"):
        try:
            folder = snapshot_download(
                source.name,
                revision=source.commit,
                token=token,
                ignore_patterns=unneeded,
                local_files_only=complete.exists(),
            )
        except (LocalEntryNotFoundError, HfHubHTTPError, httpx2.HTTPError, OSError) as error:
            complete.unlink(missing_ok=True)
            raise ModelLoadError(f"model {source}: cannot be downloaded: {type(error).__name__}: {error}") from error
        complete.touch()
    return Path(folder)


def go_offline() -> None:
    """From here on, this process asks the hub for nothing."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True
