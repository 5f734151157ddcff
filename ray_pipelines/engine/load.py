"""A specification to a real `transformers.Pipeline` on its device.

`load_pipeline` turns a model's pinned names into folders of this node (`hub.py`) and hands them to
`transformers.pipeline()`, which knows every task, custom pipelines of the hub and the user's own `pipeline_class`. With
`weights=False` the model is built on PyTorch's `meta` device from its configuration alone: enough to preprocess and
postprocess on a CPU.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib
import json
import logging
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.base import ChunkPipeline, PipelineException

from ray_pipelines.config import BatchConfig, MediaLimits, ModelConfig, OptimizeConfig
from ray_pipelines.engine import optimizations, pipelines
from ray_pipelines.engine.hub import COMPONENTS, PinnedModel, go_offline, stage
from ray_pipelines.engine.precision import is_fast
from ray_pipelines.engine.runner import Runner
from ray_pipelines.engine.steps import Steps
from ray_pipelines.engine.tuning import BudgetStore, cache_folder
from ray_pipelines.errors import ConfigError, ModelLoadError
from ray_pipelines.tasks import Task

__all__ = ["import_class", "is_chunked", "load_pipeline", "load_runner"]

logger = logging.getLogger(__name__)

AUTO_CLASSES = {
    "tokenizer": transformers.AutoTokenizer,
    "feature_extractor": transformers.AutoFeatureExtractor,
    "image_processor": transformers.AutoImageProcessor,
    "processor": transformers.AutoProcessor,
}
LOAD_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    RuntimeError,
    ImportError,
    AttributeError,
    PipelineException,
)


def load_runner(
    task: Task,
    pinned: PinnedModel,
    parameters: Any,
    batching: BatchConfig,
    limits: MediaLimits,
    seed: int = 0,
    optimize: OptimizeConfig | None = None,
    **loading: Any,
) -> Runner:
    """The executor of a pipeline that is loaded for it.

    Args:
        task: The task.
        pinned: The model.
        parameters: The task's parameters.
        batching: How chunks share a forward.
        limits: What decoding a row's media may cost.
        seed: With a row's content, the seed of that row.
        optimize: What makes the model cheaper to run.
        **loading: `device`, `weights` and `offline`, as `load_pipeline` takes them.

    Raises:
        ModelLoadError: Something could not be loaded.
    """
    optimize = optimize or OptimizeConfig()
    if not loading.get("weights", True):
        pipe = load_pipeline(task, pinned, parameters, **loading)
        return Runner(Steps(pipe, task, parameters, limits, seed), batching)
    optimizations.check_machine(optimize, pinned.config, loading.get("device"))
    if optimize.names and "model" in pinned.instances:
        # What changes in place is not the user's own.
        own = copy.deepcopy(pinned.instances["model"])
        pinned = dataclasses.replace(pinned, instances={**pinned.instances, "model": own})
    pipe = load_pipeline(task, pinned, parameters, **loading)
    _warn_of_slow_precision(pipe)
    optimizations.optimize_model(pipe, optimize)
    steps = optimizations.steps_of(pipe, optimize, task, parameters, limits, seed)
    return Runner(steps, batching, _budget_store(task, pinned, pipe, optimize))


def _warn_of_slow_precision(pipe: transformers.Pipeline) -> None:
    dtype = getattr(pipe.model, "dtype", None)
    if isinstance(dtype, torch.dtype) and not is_fast(dtype, pipe.device):
        logger.warning(
            "model.dtype: this processor has no instructions for %s; expect it to be much slower than float32.",
            str(dtype).removeprefix("torch."),
        )


def _budget_store(
    task: Task, pinned: PinnedModel, pipe: transformers.Pipeline, optimize: OptimizeConfig
) -> BudgetStore | None:
    """Where the budget of this model on this device is kept; None for a model that has no name."""
    source = pinned.sources.get("name")
    if source is None:
        return None
    weights = sorted(Path(source.folder).glob("*.safetensors")) if source.folder else []
    key = {
        "task": task.name,
        "model": source.name,
        "commit": source.commit or [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in weights],
        "device": torch.cuda.get_device_name(pipe.device) if pipe.device.type == "cuda" else platform.processor(),
        "dtype": str(pipe.dtype),
        "threads": torch.get_num_threads(),
        "model_kwargs": pinned.config.model_kwargs,
        "optimize": optimize.names,
        "torch": torch.__version__,
    }
    return BudgetStore(key, cache_folder())


def load_pipeline(
    task: Task,
    pinned: PinnedModel,
    parameters: Any,
    *,
    device: str | int | None = None,
    weights: bool = True,
    offline: bool = False,
) -> transformers.Pipeline:
    """The real pipeline of `task`, loaded from folders of this node.

    Args:
        task: The task.
        pinned: The model.
        parameters: The task's parameters; only those that the user set reach the pipeline.
        device: `cpu`, `cuda:0`, …; None lets transformers choose, unless `pinned.config` says.
        weights: Load the weights; if not, the model is on the `meta` device and cannot run.
        offline: Ask the hub for nothing more, once the files are on this node (an adapter still needs its base model).

    Raises:
        ModelLoadError: Something could not be loaded; the message has the reason in one line.
    """
    pipelines.register(task.name)
    config = pinned.config
    # Code that comes with a model may read any of its files.
    is_whole = weights or config.trust_remote_code
    folders = {name: str(stage(source, pinned.token, weights=is_whole)) for name, source in pinned.sources.items()}
    is_adapter = "name" in folders and (Path(folders["name"]) / "adapter_config.json").exists()
    if offline and not is_adapter:
        go_offline()
    arguments: dict[str, Any] = {name: folders[name] for name in COMPONENTS if name in folders}
    arguments |= {name: value for name, value in pinned.instances.items() if name != "model"}
    model = pinned.instances.get("model", folders.get("name"))
    name = _own_name(task, folders.get("name"))
    pipeline_class = config.pipeline_class or (task.pipeline_class if name is None else None)
    if pipeline_class and "pipeline_class" not in arguments:
        arguments["pipeline_class"] = import_class(pipeline_class)
    if "pipeline_class" in arguments and task.name not in PIPELINE_REGISTRY.get_supported_tasks():
        own_class = arguments["pipeline_class"]
        registered = getattr(own_class, "_registered_impl", {}).get(task.name, {})
        PIPELINE_REGISTRY.register_pipeline(task.name, own_class, pt_model=registered.get("pt") or None)
    arguments |= {
        "use_fast": config.use_fast,
        "trust_remote_code": config.trust_remote_code,
        "model_kwargs": dict(config.model_kwargs),
    }
    if config.attn_implementation is not None:
        arguments["model_kwargs"]["attn_implementation"] = config.attn_implementation
    assistant = arguments.pop("assistant_model", folders.get("assistant_model"))
    try:
        if not weights:
            return _load_without_weights(task, model, arguments, parameters)
        if isinstance(model, str):
            arguments["dtype"] = config.dtype
            arguments["device_map"] = config.device_map
        elif config.dtype != "auto":
            model = model.to(getattr(torch, config.dtype))
        if config.device_map is None:
            arguments["device"] = config.device if config.device is not None else device
        with _quiet():
            own = task.pipeline_parameters(parameters)
            pipe = transformers.pipeline(name or task.name, model=model, **arguments, **own)
            if config.attn_implementation is not None:
                _set_attention(pipe.model, config.attn_implementation)
            if assistant is not None:
                _assist(pipe, assistant, config.trust_remote_code)
    except LOAD_ERRORS as error:
        raise ModelLoadError(_load_message(task, pinned, error)) from error
    pipe.model.eval()
    return pipe


def _own_name(task: Task, folder: str | None) -> str | None:
    """The name under which a model brings a pipeline of its own for a known task; None where it brings none."""
    file = Path(folder or "") / "config.json"
    try:
        values = json.loads(file.read_bytes()) if folder and file.is_file() else None
    except ValueError:
        # Loading says what is wrong with it.
        return None
    own = values.get("custom_pipelines") if isinstance(values, dict) else None
    return next((name for name in (task.name, *task.aliases) if name in (own or {})), None)


def _set_attention(model: Any, name: str) -> None:
    """Sees to it that the model computes attention as asked, also one that came as an object.

    Raises:
        ValueError: It does not; transformers ignores what some models cannot do.
    """
    if model.config._attn_implementation != name:
        model.set_attn_implementation(name)
    if model.config._attn_implementation != name:
        raise ValueError(f"{type(model).__name__} runs with attention {model.config._attn_implementation!r} only")


def _load_without_weights(task: Task, model: Any, arguments: dict[str, Any], parameters: Any) -> transformers.Pipeline:
    """The pipeline with its model on the `meta` device, built from the configuration."""
    pipeline_class = arguments.get("pipeline_class") or _pipeline_class(task.name)
    if isinstance(model, str):
        config = transformers.AutoConfig.from_pretrained(
            arguments.pop("config", model), trust_remote_code=arguments["trust_remote_code"]
        )
        for component, auto_class in AUTO_CLASSES.items():
            source = arguments.get(component, model)
            if getattr(pipeline_class, f"_load_{component}", False) and isinstance(source, str):
                arguments[component] = auto_class.from_pretrained(
                    source, trust_remote_code=arguments["trust_remote_code"]
                )
        if "video" in task.modalities and "video_processor" not in arguments:
            arguments |= _video_components(model)
        elif "image" in task.modalities and pipeline_class._load_image_processor is None:
            arguments |= _optional_image_processor(model)
        folder, model = model, _model_without_weights(task, config, arguments["trust_remote_code"])
        if model.can_generate():
            # Only loading weights reads this file, and preprocessing looks at what it says of lengths and timestamps.
            with contextlib.suppress(OSError):
                model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    else:
        config = model.config
        with torch.device("meta"):
            model = type(model)(config)
    with _quiet():
        return transformers.pipeline(
            task.name,
            model=model,
            config=config,
            device=torch.device("meta"),
            **arguments,
            **task.pipeline_parameters(parameters),
        )


def _assist(pipe: transformers.Pipeline, assistant: Any, trust_remote_code: bool) -> None:
    """Gives a pipeline a model that drafts its tokens.

    Source: `load_assistant_model` of transformers 5.23, which fails on models without one of the special tokens (T5).

    Args:
        pipe: The pipeline.
        assistant: A folder, or a model.
        trust_remote_code: Run code that comes with the assistant.
    """
    tokenizer = None
    if isinstance(assistant, str):
        tokenizer = transformers.AutoTokenizer.from_pretrained(assistant, trust_remote_code=trust_remote_code)
        config = transformers.AutoConfig.from_pretrained(assistant, trust_remote_code=trust_remote_code)
        name = (config.architectures or [""])[0]
        model_class = getattr(transformers, name, None) or transformers.AutoModelForCausalLM
        if model_class is transformers.AutoModelForCausalLM:
            assistant = model_class.from_pretrained(assistant, trust_remote_code=trust_remote_code)
        else:
            assistant = model_class.from_pretrained(assistant)
    pipe.assistant_model = assistant.to(device=pipe.model.device, dtype=pipe.model.dtype).eval()
    pipe._forward_params["assistant_model"] = pipe.assistant_model
    ours, theirs = (model.config.get_text_config() for model in (pipe.model, pipe.assistant_model))
    names = ("vocab_size", "eos_token_id", "pad_token_id", "bos_token_id")
    if tokenizer is not None and any(getattr(ours, n, None) != getattr(theirs, n, None) for n in names):
        pipe.assistant_tokenizer = tokenizer
        pipe._forward_params |= {"tokenizer": pipe.tokenizer, "assistant_tokenizer": tokenizer}


def _model_without_weights(task: Task, config: Any, trust_remote_code: bool) -> Any:
    """The model of a configuration on the `meta` device: of the task's Auto classes, else of the class it names."""
    _, implementation, _ = PIPELINE_REGISTRY.check_task(task.name)
    with torch.device("meta"):
        for auto_class in implementation["pt"]:
            if type(config) in auto_class._model_mapping:
                return auto_class.from_config(config, trust_remote_code=trust_remote_code)
        for name in getattr(config, "architectures", None) or ():
            if hasattr(transformers, name):
                return getattr(transformers, name)(config)
    raise ValueError(f"no model class for {type(config).__name__}; use workers.stages: fused")


def _video_components(model: str) -> dict[str, Any]:
    """The video processor of a model, or the name of its image processor where it has no other."""
    try:
        return {"video_processor": transformers.AutoVideoProcessor.from_pretrained(model)}
    except (OSError, ValueError):
        return {"image_processor": model}


def _optional_image_processor(model: str) -> dict[str, Any]:
    """The image processor of a model, if it has one."""
    try:
        return {"image_processor": transformers.AutoImageProcessor.from_pretrained(model)}
    except (OSError, ValueError):
        return {}


def _pipeline_class(task_name: str) -> Any:
    _, implementation, _ = PIPELINE_REGISTRY.check_task(task_name)
    reference = implementation["impl"]
    if not isinstance(reference, str):
        return reference
    module, name = reference.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def is_chunked(task: Task, config: ModelConfig, instances: Mapping[str, Any]) -> bool | None:
    """Whether a task's pipeline is a `ChunkPipeline`; None where its class comes with the model's code.

    Raises:
        ConfigError: The class cannot be imported.
    """
    pipelines.register(task.name)
    own = instances.get("pipeline_class") or config.pipeline_class or task.pipeline_class
    if own is None and task.name not in PIPELINE_REGISTRY.get_supported_tasks():
        return None
    hosted = own if isinstance(own, type) else import_class(own) if own else _pipeline_class(task.name)
    return issubclass(hosted, ChunkPipeline)


def import_class(reference: str) -> type:
    """The class called `module:Class`.

    Raises:
        ConfigError: It cannot be imported.
    """
    module, _, name = reference.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"model.pipeline_class: cannot import {reference!r}: {error}.") from None
    if not isinstance(found, type) or not issubclass(found, transformers.Pipeline):
        raise ConfigError(f"model.pipeline_class: {reference!r} is not a subclass of transformers.Pipeline.")
    return found


class _quiet:
    """Silences the progress bars and notes of transformers' loading, which nobody reads in a worker's log."""

    def __enter__(self) -> None:
        from transformers.utils import logging as transformers_logging

        self._logging = transformers_logging
        self._verbosity = transformers_logging.get_verbosity()
        self._bars = transformers_logging.is_progress_bar_enabled()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        self._logging.set_verbosity(self._verbosity)
        if self._bars:
            self._logging.enable_progress_bar()


def _load_message(task: Task, pinned: PinnedModel, error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if line.split(":")[0].endswith(("Error", "Exception"))]
    reason = (causes[-1] if causes else lines[0] if lines else type(error).__name__)[:400]
    attention = pinned.config.attn_implementation
    if attention is not None and any(word in reason.lower() for word in ("attention", "flash_attn", "sdpa", "kernel")):
        return (
            f"model.attn_implementation: expected one that {pinned} and this machine support; got {attention!r}: "
            f"{reason} Leave it unset, or choose another."
        )
    return f"model {pinned}: cannot be loaded for {task.name}: {reason}"
