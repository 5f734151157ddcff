"""What `transformers.pipeline()` takes, made into a `PipelineSpec`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from numbers import Integral
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from ray_pipelines import tasks
from ray_pipelines.config import BatchConfig, FilesystemConfig, MediaLimits, ModelConfig, OptimizeConfig, WorkersConfig
from ray_pipelines.data.pipeline import PipelineSpec
from ray_pipelines.errors import ConfigError
from ray_pipelines.tasks._old_names import modern_parameters
from ray_pipelines.validation import describe_validation_error

__all__ = ["pipeline"]

WITHOUT_EFFECT = {"num_workers", "args_parser", "binary_output", "modelcard"}
"""Arguments of transformers' `pipeline()` that are accepted for nothing: there is no DataLoader here."""


def pipeline(
    task: tasks.TaskName | str | None = None,
    model: Any = None,
    *,
    config: Any = None,
    tokenizer: Any = None,
    feature_extractor: Any = None,
    image_processor: Any = None,
    processor: Any = None,
    video_processor: Any = None,
    assistant_model: Any = None,
    revision: str | None = None,
    use_fast: bool = True,
    token: str | bool | None = None,
    device: Any = None,
    device_map: Any = None,
    dtype: Any = "auto",
    attn_implementation: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
    pipeline_class: Any = None,
    num_gpus: float | None = None,
    num_cpus: float | None = None,
    num_threads: int | None = None,
    accelerator_type: str | None = None,
    label_selector: Mapping[str, str] | None = None,
    resources: Mapping[str, float] | None = None,
    autoscaling: bool = False,
    concurrency: int | tuple[int, int] | None = None,
    stages: Literal["auto", "fused", "split"] = "auto",
    chunking: Literal["auto", "in_worker", "groupby"] = "auto",
    timeout_s: float | None = WorkersConfig.model_fields["timeout_s"].default,
    workers: str | WorkersConfig | Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    batch: BatchConfig | Mapping[str, Any] | None = None,
    optimize: OptimizeConfig | Mapping[str, Any] | None = None,
    limits: MediaLimits | Mapping[str, Any] | None = None,
    filesystem: FilesystemConfig | Mapping[str, Any] | None = None,
    seed: int = 0,
    output_column: str = "prediction",
    **task_parameters: Any,
) -> PipelineSpec:
    """A specification of a pipeline: what `transformers.pipeline()` takes, and where it should run.

    Args:
        task: Task id, e.g. `text-classification`; unset, what the hub says the model is for.
        model: Hub id, local folder or model object; unset, the task's default.
        config, tokenizer, feature_extractor, image_processor, processor, video_processor: Hub id, folder or object of
            each, where it is not the model's own.
        assistant_model: Hub id, folder or object of a smaller model that drafts tokens for the model to check.
        revision: Branch, tag or commit of the model.
        use_fast: Use the fast tokenizer where there is one.
        token: Hub token; never logged. Also as `use_auth_token`.
        device: `cpu`, `cuda:0`, a number, …; unset, a GPU where the worker has one.
        device_map: Spread one model over devices, as accelerate does.
        dtype: Precision of the weights (`float16`, `torch.float16`, …); `auto` is the checkpoint's. Also as
            `torch_dtype`.
        attn_implementation: How attention is computed: `sdpa`, `eager`, `flash_attention_2`, …
        model_kwargs: Further arguments of `from_pretrained()`.
        trust_remote_code: Run code that comes with the model.
        pipeline_class: Your own `transformers.Pipeline` class, or its name as `module:Class`.
        num_gpus, num_cpus, num_threads, concurrency, stages, chunking, timeout_s: As `workers` in a job file.
        workers: `serve://NAME` of a Serve application that has this model and runs the rows; or as in a job file, in
            place of the arguments above.
        accelerator_type, label_selector, resources, autoscaling: Where workers run; as `workers` in a job file.
        batch_size: Rows of one forward at most, short for `batch={"max_size": …}`.
        filesystem: How media that rows name by URI are opened; as `read.filesystem` in a job file.
        batch, optimize, limits: As in a job file, e.g. `optimize={"int8": True}`.
        seed: With a row's content, the seed of that row where the task draws random numbers.
        output_column: Name of the column of results.
        **task_parameters: Parameters of the task, e.g. `top_k=3`; `ray-pipelines tasks NAME` lists them.

    Raises:
        ConfigError: One line per problem: an unknown task or parameter, a wrong value, two names for one thing.
    """
    values: dict[str, Any] = {
        "use_fast": use_fast,
        "device_map": device_map,
        "dtype": "auto" if dtype is None else dtype,
        "attn_implementation": attn_implementation,
        "model_kwargs": dict(model_kwargs or {}),
        "trust_remote_code": bool(trust_remote_code),
        "revision": revision,
        "token": token or None,
        "device": device if device is None or isinstance(device, int) else str(device),
    }
    for old, new, default in (("torch_dtype", "dtype", "auto"), ("use_auth_token", "token", None)):
        if (value := task_parameters.pop(old, None)) is not None:
            warnings.warn(f"{old} is the old name of {new}.", FutureWarning, stacklevel=2)
            if values[new] not in (default, value):
                raise ConfigError(f"{old}: is the old name of {new}, which is given too. Drop {old}.")
            values[new] = value
    if values["token"] is True or values["token"] is False:
        values["token"] = None
    for name in WITHOUT_EFFECT & task_parameters.keys():
        warnings.warn(f"{name} has no effect.", UserWarning, stacklevel=2)
        task_parameters.pop(name)
    framework = task_parameters.pop("framework", None)
    if framework not in (None, "pt"):
        raise ConfigError(f'framework: expected "pt"; got {framework!r}. transformers 5 runs on PyTorch only.')
    problems = _type_problems(task, seed)
    instances: dict[str, Any] = {}
    for name, value in (
        ("model", model),
        ("config", config),
        ("tokenizer", tokenizer),
        ("feature_extractor", feature_extractor),
        ("image_processor", image_processor),
        ("processor", processor),
        ("video_processor", video_processor),
        ("assistant_model", assistant_model),
        ("pipeline_class", pipeline_class),
    ):
        if value is None:
            continue
        if isinstance(value, str) or hasattr(value, "__fspath__"):
            values["name" if name == "model" else name] = str(value)
        elif isinstance(value, int | float | bytes | list | dict):
            problems.append(f"{name}: expected a hub id, a folder or an object; got {value!r}.")
        else:
            instances[name] = value
    if "model" in instances and not hasattr(model, "config"):
        kind = type(model).__name__
        problems.append(f"model: expected a hub id, a folder or a model; got a {kind}. Of a pipeline, pass its parts.")
    if batch_size is not None:
        batch = {**_as_dict(batch), "max_size": batch_size}
    own_workers: dict[str, Any] = {
        "num_gpus": num_gpus or 0,
        "num_cpus": num_cpus,
        "num_threads": num_threads,
        "concurrency": concurrency,
        "stages": stages,
        "chunking": chunking,
        "timeout_s": timeout_s,
        "accelerator_type": accelerator_type,
        "label_selector": dict(label_selector or {}),
        "resources": dict(resources or {}),
        "autoscaling": autoscaling,
    }
    model_config = _validated(ModelConfig, values, "model", problems)
    workers_config = _workers(workers, own_workers, problems)
    batch_config = _validated(BatchConfig, batch, "batch", problems)
    optimize_config = _validated(OptimizeConfig, optimize, "optimize", problems)
    limits_config = _validated(MediaLimits, limits, "limits", problems)
    filesystem_config = _validated(FilesystemConfig, filesystem, "filesystem", problems)
    if optimize_config is not None and model_config is not None:
        problems += optimize_config.problems(model_config, num_gpus or 0)
    if task is None and not problems:
        task = _task_of_model(model_config)
    if isinstance(task, str):
        own = bool(pipeline_class) or bool(trust_remote_code)
        try:
            resolved = tasks.resolve(task, has_own_pipeline=own, has_own_parameters=bool(pipeline_class))
            task_parameters = modern_parameters(resolved.name, task_parameters)
            tasks.validate_parameters(resolved, task_parameters)
        except ConfigError as error:
            problems += error.problems
    if problems or task is None:
        raise ConfigError(problems)
    return PipelineSpec(
        task_name=task,
        model=model_config,
        parameters=dict(task_parameters),
        workers=workers_config,
        batch=batch_config,
        optimize=optimize_config,
        limits=limits_config,
        filesystem=filesystem_config,
        seed=seed,
        output_column=output_column,
        instances=instances,
    )


def _type_problems(task: Any, seed: Any) -> list[str]:
    problems = []
    if task is not None and not isinstance(task, str):
        problems.append(f"task: expected the name of a task; got {task!r}.")
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        problems.append(f"seed: expected a whole number; got {seed!r}.")
    return problems


def _workers(workers: Any, arguments: Mapping[str, Any], problems: list[str]) -> Any:
    """The workers that `workers` describes, or the arguments that stand for its settings."""
    if workers is None:
        return _validated(WorkersConfig, arguments, "workers", problems)
    if isinstance(workers, WorkersConfig):
        workers = workers.model_dump(exclude_unset=True)
    elif isinstance(workers, str):
        workers = {"serve": workers}
    elif not isinstance(workers, Mapping):
        problems.append(f"workers: expected serve://NAME or a mapping; got {workers!r}.")
        return None
    fields = WorkersConfig.model_fields
    given = {
        name: value for name, value in arguments.items() if value != fields[name].get_default(call_default_factory=True)
    }
    twice = sorted(given.keys() & workers.keys())
    problems += [f"{name}: is given twice, also in workers. Drop one." for name in twice]
    return _validated(WorkersConfig, {**given, **workers}, "workers", problems)


def _as_dict(value: BaseModel | Mapping[str, Any] | None) -> dict[str, Any]:
    return value.model_dump() if isinstance(value, BaseModel) else dict(value or {})


def _validated(model: type[Any], values: Any, where: str, problems: list[str]) -> Any:
    try:
        return model.model_validate(_as_dict(values) if isinstance(values, BaseModel | Mapping | None) else values)
    except ValidationError as error:
        problems += describe_validation_error(error, where, model)
        return None


def _task_of_model(model: ModelConfig) -> str:
    """The task that the hub names for a model.

    Raises:
        ConfigError: No task is named, or the model is not on the hub.
    """
    if model.name is None:
        raise ConfigError("task: is required; or the name of a model, for which the hub may say it.")
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        token = model.token.get_secret_value() if model.token else None
        tag = HfApi(token=token).model_info(model.name or "", revision=model.revision).pipeline_tag
    except (HfHubHTTPError, HFValidationError, httpx2.HTTPError, OSError):
        tag = None
    if tag is None:
        raise ConfigError(f"task: is required; the hub does not say what {model.name!r} is for.")
    return tag
