"""Reading job files: YAML to a `Job`, with everything that is wrong in one message.

What needs a look at the disk (does the model's folder exist, does the dataset have the columns) is in `data/job.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from ray_pipelines import tasks
from ray_pipelines.config import TASK_IS_REQUIRED, Job, chunking_problems, input_problems
from ray_pipelines.errors import ConfigError
from ray_pipelines.tasks._old_names import modern_parameters
from ray_pipelines.validation import describe_validation_error

__all__ = ["apply_override", "job_schema", "read_job", "read_values", "validate_job"]

SHORT_FOR = {"model": "name", "workers": "serve"}
"""Sections that may be one text: the setting that it stands for."""
MERGE_TAG = "tag:yaml.org,2002:merge"
"""Of the key `<<`, which takes in another mapping."""


class _Loader(yaml.SafeLoader):
    """YAML whose errors all have a place: also of a key that is there twice, or a date that no calendar has."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            name = key.tag, str(key.value)
            if name in lines and key.tag != MERGE_TAG:
                problem = f"{key.value} is there twice, first in line {lines[name]}; keep one"
                raise ComposerError(None, None, problem, key.start_mark)
            lines[name] = key.start_mark.line + 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise ConstructorError(None, None, f"{node.value}: {error}", node.start_mark) from None


def read_job(path: str | Path, overrides: Sequence[str] = ()) -> Job:
    """The job in a YAML file, with `a.b=c` overrides applied.

    Args:
        path: The job file.
        overrides: Settings such as `model.dtype=float16`; the value is read as YAML.

    Raises:
        ConfigError: One line per problem.
    """
    return validate_job(read_values(path, overrides))


def read_values(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The settings in a YAML file as they stand there, with `a.b=c` overrides applied.

    Raises:
        ConfigError: The file cannot be read, or an override cannot be applied.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file in UTF-8"
        raise ConfigError(f"{path}: cannot be read: {reason}.") from None
    try:
        values = yaml.load(text, _Loader)
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deeply.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}.") from None
    if not isinstance(values, dict):
        got = "nothing" if values is None else f"a {type(values).__name__}"
        raise ConfigError(f"{path}: expected a mapping with task, read and write; got {got}.")
    if isinstance(overrides, str):
        raise TypeError(f"overrides: expected a list of settings; got a str. Wrap it: [{overrides!r}].")
    for override in overrides:
        apply_override(values, override)
    return values


def validate_job(values: Mapping[str, Any]) -> Job:
    """The job that `values` describe: types, names, the task's parameters and inputs are all checked.

    Raises:
        ConfigError: One line per problem.
    """
    problems: list[str] = []
    job = None
    values = _with_modern_parameters(values)
    try:
        job = Job.model_validate(dict(values))
    except ValidationError as error:
        problems += describe_validation_error(error, "", Job)
    if values.get("tasks"):
        problems += _problems_of_several(values)
    elif isinstance(values.get("task"), str):
        problems += _task_problems(values)
    elif "task" not in values:
        problems.append(TASK_IS_REQUIRED)
    if job is not None:
        for name, part in job.parts.items():
            has_own_pipeline = bool(part.model.pipeline_class or part.model.trust_remote_code)
            task = tasks.generic(part.task) if has_own_pipeline or problems else tasks.get(part.task)
            problems += [job.where_of(name) + problem for problem in chunking_problems(task, part.workers, part.batch)]
    if problems or job is None:
        raise ConfigError(dict.fromkeys(problems))
    return job


def _with_modern_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(several := values.get("tasks"), dict):
        own = {name: _with_modern_parameters(one) for name, one in several.items() if isinstance(one, dict)}
        return {**values, "tasks": {**several, **own}}
    name, parameters = values.get("task"), values.get("parameters")
    if not isinstance(name, str) or not isinstance(parameters, dict):
        return dict(values)
    task = tasks.resolve(name, has_own_pipeline=True)
    return {**values, "parameters": modern_parameters(task.name, parameters)}


def _problems_of_several(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with the tasks of a job of several: of each, and of the inputs that all of them share."""
    problems: list[str] = []
    shared = inputs if isinstance(inputs := values.get("inputs"), dict) else {}
    taken: set[str] = set()
    known = True
    for name, one in values["tasks"].items() if isinstance(values["tasks"], dict) else ():
        if not isinstance(one, dict) or not isinstance(one.get("task"), str):
            known = False
            continue
        try:
            fields = {field.name for field in tasks.get(one["task"]).inputs}
        except ConfigError:
            known, fields = False, set()
            if _has_own_pipeline(one.get("model")):
                problems.append(
                    f"tasks.{name}.task: expected a task whose results have a known type; got {one['task']}, which "
                    "only its pipeline knows. Run it by itself."
                )
        taken |= fields & shared.keys()
        own_inputs = one["inputs"] if isinstance(one.get("inputs"), dict) else {}
        own = {**one, "inputs": {**{field: shared[field] for field in fields & shared.keys()}, **own_inputs}}
        problems += [f"tasks.{name}.{problem}" for problem in _task_problems(own)]
    if known:
        problems += [f"inputs.{field}: none of the tasks has this input." for field in shared if field not in taken]
    return problems


def _task_problems(values: Mapping[str, Any]) -> list[str]:
    model, parameters, inputs = values.get("model"), values.get("parameters") or {}, values.get("inputs") or {}
    try:
        task = tasks.get(values["task"])
    except ConfigError as error:
        return [] if _has_own_pipeline(model) else list(error.problems)
    if isinstance(model, dict) and model.get("pipeline_class"):
        task = tasks.resolve(values["task"], has_own_pipeline=True, has_own_parameters=True)
    problems: list[str] = []
    if isinstance(parameters, dict):
        try:
            tasks.validate_parameters(task, parameters)
        except ConfigError as error:
            problems += error.problems
    if isinstance(inputs, dict):
        problems += input_problems(task, inputs)
    return problems


def _has_own_pipeline(model: Any) -> bool:
    return isinstance(model, dict) and bool(model.get("pipeline_class") or model.get("trust_remote_code"))


def apply_override(values: dict[str, Any], override: str) -> None:
    """Changes one setting of a job file's values in place, as `a.b=c` says."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"--set {override}: expected a.b=value.")
    *parents, last = key.split(".")
    for parent in parents:
        nested = values.setdefault(parent, {})
        if isinstance(nested, str) and parent in SHORT_FOR:
            nested = values[parent] = {SHORT_FOR[parent]: nested}
        if not isinstance(nested, dict):
            raise ConfigError(f"--set {override}: {parent} is not a mapping in the job file.")
        values = nested
    try:
        values[last] = yaml.load(text, _Loader)
    except RecursionError:
        raise ConfigError(f"--set {override[:80]}: the value is nested too deeply.") from None
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or error
        raise ConfigError(f"--set {override}: the value is not valid YAML: {reason}.") from None


def job_schema() -> dict[str, Any]:
    """The JSON schema of job files, for editors."""
    schema = Job.model_json_schema()
    schema["anyOf"] = [{"required": ["task"]}, {"required": ["tasks"]}]
    schema["$defs"]["TaskConfig"]["properties"]["model"] = _model_schema()
    variants: list[dict[str, Any]] = []
    for name in tasks.names():
        task = tasks.get(name)
        parameters = task.parameters.model_json_schema()
        schema["$defs"].update(parameters.pop("$defs", {}))
        schema["$defs"][task.parameters.__name__] = parameters
        variants.append(
            {
                "if": {"properties": {"task": {"enum": [name, *task.aliases]}}, "required": ["task"]},
                "then": {
                    "properties": {
                        "parameters": {"$ref": f"#/$defs/{task.parameters.__name__}"},
                        "inputs": {"propertyNames": {"enum": [field.name for field in task.inputs]}},
                    }
                },
            }
        )
    schema["$defs"]["TaskConfig"]["allOf"] = variants
    schema["properties"]["model"] = _model_schema()
    schema["properties"]["workers"] = {
        "anyOf": [{"type": "string", "pattern": "^serve://"}, {"$ref": "#/$defs/WorkersConfig"}],
        "description": "How many workers, and what each gets; or serve://NAME of a Serve application.",
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "allOf": variants}


def _model_schema() -> dict[str, Any]:
    return {
        "anyOf": [{"type": "string"}, {"$ref": "#/$defs/ModelConfig"}],
        "description": Job.model_fields["model"].description,
    }
