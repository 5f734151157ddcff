"""What each task is: inputs, parameters, result type, cost; one flat file per task.

The file name is the registry: `tasks/text_classification.py` holds the `TASK` of `text-classification`. Nothing here
imports ray, torch or transformers, so that job files can be checked and help can be printed at once.

A task file says what `transformers` does not:

- `inputs`: the fields of one row and their modality, mapped to columns by a job;
- `parameters`: a pydantic model; only what the user sets is handed to the pipeline;
- `result_type`: the Arrow type of one result, the same for every row and batch of a run;
- `to_result`: the pipeline's Python result made to fit that type;
- `kept_outputs`, `sequence_outputs`: which model outputs are needed, and which of them have a token axis (axis 1) that
  must be cut back to the row's true length after a padded batch.

A task without a file (any other that `transformers` has registered, or a custom pipeline) is still served by
`generic`: one row per forward, results as the pipeline gives them.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ray_pipelines.errors import ConfigError, InvalidInput
from ray_pipelines.tasks._task_names import TaskName
from ray_pipelines.validation import describe_validation_error, did_you_mean, is_typo

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Field",
    "Modality",
    "Parameters",
    "RowCall",
    "Task",
    "TaskName",
    "generic",
    "get",
    "names",
    "require_text",
    "resolve",
    "validate_parameters",
]

Modality = Literal["text", "chat", "image", "images", "audio", "named images", "video", "videos", "number", "any"]


class Parameters(BaseModel):
    """Base of a task's parameters: unknown names are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


@dataclass(frozen=True)
class Field:
    """One input of a task, mapped to a column by a job.

    Attributes:
        name: Name of the field, as in `inputs: {name: column}`.
        modality: What a value is; `image`, `audio`, `video`, `images` and `videos` (one or a list), `named images` (a
            mapping) and the media in a `chat` (a text, or a list of messages) are decoded by `ray_pipelines.media`.
        description: One sentence for people.
        required: Whether every row must have it.
    """

    name: str
    modality: Modality
    description: str
    required: bool = True


def _only_value(fields: Mapping[str, Any]) -> Any:
    (value,) = fields.values()
    return value


def _unchanged(result: Any, parameters: BaseModel) -> Any:
    return result


@dataclass(frozen=True)
class RowCall:
    """An item with arguments of its own for the pipeline's `preprocess`, such as this row's `candidate_labels`.

    Attributes:
        item: What `preprocess` takes first.
        parameters: Its further arguments for this row, over those of the task.
    """

    item: Any
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Preparation:
    """An input that is made of another where a row has none, in a CPU stage of its own before all others.

    Attributes:
        field: The input that is made.
        source: The input that it is made of.
        column: The hidden column that holds it between the stages.
        type: Gives its Arrow type.
        is_needed: Whether a loaded pipeline reads this input.
        value: Makes it, of the pipeline and the item; None where the item has nothing to make it of.
    """

    field: str
    source: str
    column: str
    type: Callable[[], pa.DataType]
    is_needed: Callable[[Any], bool]
    value: Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Task:
    """What a task is, apart from any model.

    Attributes:
        name: The task id, e.g. `text-classification`.
        summary: One line for people.
        inputs: Fields of one row.
        parameters: Pydantic model of the task's parameters.
        result_type: Gives the Arrow type of one result for given parameters; None where it is not known beforehand.
        result_description: One line that says what a result is.
        aliases: Other ids of the task.
        to_item: Makes what the pipeline's `preprocess` takes from the (decoded) fields of one row; a `RowCall` if the
            row has arguments of its own.
        to_result: Makes a result that fits `result_type` from the pipeline's own.
        pipeline_parameters: Makes the keyword arguments of the pipeline from the parameters that the user set.
        kept_outputs: Model outputs that are needed afterwards; None keeps all, `"first"` the first.
        sequence_outputs: Of these, the outputs with a token axis (axis 1) to cut to the row's true length; `"all"`.
        batched: Whether rows of this task can share a forward; if not, each row is run by itself.
        splittable: Whether model inputs and outputs can cross a stage boundary: tensors and what JSON holds.
        chunked: Whether its pipeline is a `ChunkPipeline`, which makes any number of forwards for one row; None where
            only the pipeline knows.
        pipeline_class: `module:Class` of a pipeline of this project that takes the place of the one in transformers.
        preprocess_many: Makes the chunks of many items at once, of the pipeline, the items and the arguments of its
            `preprocess`: for each item a list of what the pipeline's `preprocess` would give, or None where the item
            must be preprocessed by itself. It may raise: then all of them are.
        group_size: Items that `preprocess_many` is given at most.
        postprocess_many: Makes the pipeline's results of many rows of one forward each, of the pipeline, their outputs
            and the arguments of its `postprocess`: for each row what the pipeline's `postprocess` would give, or None
            where the row must be postprocessed by itself. It may raise: then all of them are.
        takes_assistant: Whether a second model may draft the tokens that are generated.
        is_random: Whether a loaded pipeline with given parameters draws random numbers; each row then runs by itself,
            under a seed of its own.
        preparation: What a dataset's rows get in a CPU stage of its own before all others.
    """

    name: str
    summary: str
    inputs: tuple[Field, ...]
    parameters: type[BaseModel]
    result_type: Callable[[Any], pa.DataType] | None
    result_description: str
    aliases: tuple[str, ...] = ()
    to_item: Callable[[Mapping[str, Any]], Any] = _only_value
    to_result: Callable[[Any, Any], Any] = _unchanged
    pipeline_parameters: Callable[[Any], dict[str, Any]] = lambda parameters: parameters.model_dump(exclude_unset=True)
    kept_outputs: tuple[str, ...] | Literal["first"] | None = None
    sequence_outputs: tuple[str, ...] | Literal["all"] = ()
    batched: bool = True
    splittable: bool = True
    chunked: bool | None = False
    pipeline_class: str | None = None
    preprocess_many: Callable[[Any, Sequence[Any], Mapping[str, Any]], Sequence[Any]] | None = None
    group_size: int = 256
    postprocess_many: Callable[[Any, Sequence[Any], Mapping[str, Any]], Sequence[Any]] | None = None
    takes_assistant: bool = False
    is_random: Callable[[Any, Any], bool] = lambda pipe, parameters: False
    preparation: Preparation | None = None

    @property
    def required_inputs(self) -> tuple[str, ...]:
        """Names of the fields that every row must have."""
        return tuple(f.name for f in self.inputs if f.required)

    def fields_of(self, item: Any) -> dict[str, Any]:
        """The fields of an item as `transformers` takes it, by name.

        Other keys of a dictionary, such as the `id` of a row, are passed over, as there; but not one that nearly is the
        name of an input that the dictionary lacks, which is refused later.

        Args:
            item: A dictionary of fields, one value for each that is required (a pair of images), or the first field.
        """
        first, required = self.inputs[0].name, self.required_inputs
        if isinstance(item, dict) and (first in item or len(required) > 1):
            known = frozenset(field.name for field in self.inputs)
            if item.keys() <= known:
                return item
            lacking = known.difference(item)
            return {key: value for key, value in item.items() if key in known or is_typo(key, lacking)}
        if isinstance(item, list | tuple) and len(item) == len(required) > 1:
            return dict(zip(required, item, strict=True))
        return {first: item}

    @property
    def modalities(self) -> frozenset[Modality]:
        """The modalities of all fields."""
        return frozenset(f.modality for f in self.inputs)

    def field(self, name: str) -> Field:
        """The field called `name`.

        Raises:
            ConfigError: There is none.
        """
        for candidate in self.inputs:
            if candidate.name == name:
                return candidate
        known = [f.name for f in self.inputs]
        raise ConfigError(
            f'inputs.{name}: {self.name} has no input "{name}".{did_you_mean(name, known)} It has: {", ".join(known)}.'
        )


@functools.cache
def names() -> tuple[str, ...]:
    """The ids of all tasks with a file of their own, in alphabetical order.

    >>> "text-classification" in names()
    True
    """
    files = (file.stem for file in Path(__file__).parent.glob("*.py") if not file.stem.startswith("_"))
    return tuple(sorted(stem.replace("_", "-") for stem in files))


@functools.cache
def _aliases() -> dict[str, str]:
    return {alias: name for name in names() for alias in _load(name).aliases}


@functools.cache
def _load(name: str) -> Task:
    task = importlib.import_module(f"ray_pipelines.tasks.{name.replace('-', '_')}").TASK
    assert isinstance(task, Task) and task.name == name, f"tasks/{name}: the file's TASK must be called {name!r}"
    return task


FAMILIES = {"translation": re.compile(r"translation_.+_to_.+")}
"""Tasks whose name may be longer, since it holds arguments; `translation_en_to_fr` is a `translation`."""


def _file_name(name: str) -> str:
    """The name of the task file for `name`, which may be an alias or one of a family; else `name` itself."""
    for family, pattern in FAMILIES.items():
        if pattern.fullmatch(name):
            return family
    return _aliases().get(name, name)


def get(name: str) -> Task:
    """The task called `name`: an id, an alias such as `sentiment-analysis`, or one such as `translation_en_to_fr`.

    Raises:
        ConfigError: No task file has that name; the message names the nearest.
    """
    file_name = _file_name(name)
    if file_name in names():
        task = _load(file_name)
        return dataclasses.replace(task, name=name) if file_name in FAMILIES else task
    hint = did_you_mean(name, [*names(), *_aliases()])
    own = "One of your own needs model.pipeline_class, or model.trust_remote_code if its code comes with the model."
    raise ConfigError(f'task: there is no task "{name}".{hint} Known: {", ".join(names())}. {own}')


class _AnyParameters(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


@functools.lru_cache
def _open(parameters: type[BaseModel]) -> type[BaseModel]:
    """The parameters, and any others besides."""
    return type(parameters.__name__, (parameters,), {"model_config": ConfigDict(extra="allow"), "__module__": __name__})


def _with_own_parameters(task: Task) -> Task:
    def pipeline_parameters(parameters: BaseModel) -> dict[str, Any]:
        return {**(parameters.model_extra or {}), **task.pipeline_parameters(parameters)}

    return dataclasses.replace(task, parameters=_open(task.parameters), pipeline_parameters=pipeline_parameters)


def resolve(name: str, *, has_own_pipeline: bool = False, has_own_parameters: bool = False) -> Task:
    """The task called `name`, or `generic` for one that only its pipeline knows.

    Args:
        name: Task id or alias.
        has_own_pipeline: The user brings a pipeline (`pipeline_class`, or code of the hub), so any name will do.
        has_own_parameters: The user brings its class, which may take parameters that the task has not.

    Raises:
        ConfigError: Nobody knows the task.
    """
    if _file_name(name) not in names() and (has_own_pipeline or registered_class(name) is not None):
        return generic(name)
    task = _with_own_parameters(get(name)) if has_own_parameters else get(name)
    # Nobody knows what its postprocessing wants, nor whether it makes chunks.
    return dataclasses.replace(task, chunked=None, kept_outputs=None) if has_own_pipeline else task


def registered_class(name: str) -> type | None:
    """The pipeline of a task that is none of this package, which this program has registered with transformers."""
    transformers_pipelines = sys.modules.get("transformers.pipelines")
    if transformers_pipelines is None or _file_name(name) in names():
        return None
    registry = transformers_pipelines.PIPELINE_REGISTRY
    found: dict[str, Any] = registry.supported_tasks.get(registry.task_aliases.get(name, name), {})
    return found.get("impl")


def generic(name: str) -> Task:
    """A task that nothing is known about but its pipeline: rows run one by one, results are left as they come."""
    return Task(
        name=name,
        summary="A pipeline without a task file: rows run one by one.",
        inputs=(Field("inputs", "any", "Whatever the pipeline takes."),),
        parameters=_AnyParameters,
        result_type=None,
        result_description="whatever the pipeline gives",
        batched=False,
        splittable=False,
        chunked=None,
    )


def validate_parameters(task: Task, parameters: Mapping[str, Any], where: str = "parameters") -> Any:
    """The typed parameters of `task`.

    Args:
        task: The task.
        parameters: Names and values as the user gave them.
        where: Prefix of the key in messages.

    Raises:
        ConfigError: With one line per unknown name (and the nearest known one) or wrong value.
    """
    try:
        return task.parameters.model_validate(dict(parameters))
    except ValidationError as error:
        raise ConfigError(describe_validation_error(error, where, task.parameters)) from None


def require_text(value: Any, field_name: str = "text") -> str:
    """`value` if it is a string.

    Raises:
        InvalidInput: It is not, or is no Unicode text; the message does not say its content.
    """
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(
                f"{field_name}: expected Unicode text; got half of a surrogate pair at character {error.start}."
            ) from None
        return value
    got = "null" if value is None else type(value).__name__
    raise InvalidInput(f"{field_name}: expected a string; got {got}.")
