"""Parameters that transformers has renamed, that have no use here, or that say the same as another one.

The first two are accepted with a warning that says so. The third are `generation_config`, whose fields are parameters
by themselves, and `return_type` and `return_text` of the tasks that generate texts, whose results are either texts or
token ids: one Arrow type needs one word for that, `return_tensors`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from ray_pipelines.errors import ConfigError
from ray_pipelines.tasks import get, names
from ray_pipelines.tasks._generation import GenerationParameters

__all__ = ["modern_parameters"]

_Translation = Callable[[Any, Mapping[str, Any]], dict[str, Any]]
"""Takes the value, and all of the parameters."""


def _strategy(grouped: Any, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Of token-classification, which reads its two old names together."""
    return {"aggregation_strategy": ("first" if parameters.get("ignore_subwords") else "simple") if grouped else "none"}


OLD_NAMES: dict[str, dict[str, _Translation]] = {
    "text-classification": {"return_all_scores": lambda value, _: {"top_k": None if value else 1}},
    "token-classification": {
        "grouped_entities": _strategy,
        "ignore_subwords": lambda _, parameters: _strategy(parameters.get("grouped_entities"), parameters),
    },
    "zero-shot-classification": {"multi_class": lambda value, _: {"multi_label": value}},
    "question-answering": {"topk": lambda value, _: {"top_k": value}},
}

REPLIES = {
    "tensors": {"return_tensors": True},
    "new_text": {"return_full_text": False},
    "full_text": {"return_full_text": True},
}
TEXTS = {"tensors": {"return_tensors": True}, "text": {"return_tensors": False}}
RETURN_TYPES: dict[str, dict[str, dict[str, Any]]] = {
    **dict.fromkeys(("text-generation", "image-text-to-text", "any-to-any"), REPLIES),
    **dict.fromkeys(("text2text-generation", "summarization", "translation"), TEXTS),
}
"""What each `return_type` means, in the order of the numbers that transformers gives them."""

READ_BEFORE = "pictures and videos are read before the pipeline sees them."
ARRAYS = "results are arrays, not nested lists."
MASKS = "results have the run lengths and the box of each mask."
WITHOUT_EFFECT = {
    "feature-extraction": {"return_tensors": ARRAYS},
    "image-feature-extraction": {"return_tensors": ARRAYS},
    "mask-generation": dict.fromkeys(("output_rle_mask", "output_rle_masks", "output_bboxes_mask"), MASKS),
}
"""Parameters of a task that change nothing, and why; `timeout` is one of all tasks."""


def modern_parameters(task_name: str, parameters: Mapping[str, Any], quiet: bool = False) -> dict[str, Any]:
    """The parameters under the names of today.

    Args:
        task_name: The task.
        parameters: As they were given.
        quiet: Whether nothing is said about old names, and values under them, as those are a client's.

    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     modern_parameters("text-classification", {"return_all_scores": True})
    {'top_k': None}
    """
    if task_name.startswith("translation_"):
        task_name = "translation"
    modern: dict[str, Any] = {}
    for name, value in parameters.items():
        reason = {"timeout": READ_BEFORE, **WITHOUT_EFFECT.get(task_name, {})}.get(name)
        if reason is not None and task_name in names():
            if not quiet:
                warnings.warn(f"parameters.{name} has no effect: {reason}", UserWarning, stacklevel=3)
            continue
        if name == "generation_config" and (settings := _of_generation_config(task_name, value)) is not None:
            modern |= _agreed(parameters, name, settings)
            continue
        if name == "return_type" and value is not None and task_name in RETURN_TYPES:
            modern |= _agreed(parameters, name, _of_return_type(RETURN_TYPES[task_name], value))
            continue
        if name == "return_text" and RETURN_TYPES.get(task_name) is TEXTS:
            modern |= _agreed(parameters, name, {"return_tensors": not value})
            continue
        translate = OLD_NAMES.get(task_name, {}).get(name)
        if translate is None:
            modern[name] = value
            continue
        translated = _agreed(parameters, name, translate(value, parameters))
        modern |= translated
        if not quiet:
            now = ", ".join(f"{key}={new!r}" for key, new in translated.items()) or "nothing"
            warnings.warn(f"parameters.{name} is an old name; taken as {now}.", FutureWarning, stacklevel=3)
    return modern


def _of_generation_config(task_name: str, value: Any) -> dict[str, Any] | None:
    """What a `GenerationConfig`, or a mapping in its place, sets; None if it is neither, or the task takes none."""
    if task_name not in names() or not issubclass(parameters_of := get(task_name).parameters, GenerationParameters):
        return None
    settings = value.to_diff_dict() if hasattr(value, "to_diff_dict") else value
    if not isinstance(settings, Mapping):
        return None
    settings = {name: set_to for name, set_to in settings.items() if name != "transformers_version"}
    apart: frozenset[str] = getattr(parameters_of, "not_of_generation", frozenset())
    others = {name: settings.pop(name) for name in sorted(apart & settings.keys())}
    return {**settings, "generate_kwargs": others} if others else settings


def _of_return_type(meanings: Mapping[str, dict[str, Any]], value: Any) -> dict[str, Any]:
    """What a `return_type` means: a name such as `new_text`, its number, or the member of an enumeration."""
    number = getattr(value, "value", value)
    names_in_order = list(meanings)
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(names_in_order):
        return meanings[names_in_order[number]]
    if isinstance(number, str) and number.lower() in meanings:
        return meanings[number.lower()]
    raise ConfigError(f"parameters.return_type: expected one of {', '.join(meanings)}; got {value!r}.")


def _agreed(parameters: Mapping[str, Any], name: str, meaning: dict[str, Any]) -> dict[str, Any]:
    """The meaning, if no other parameter says the opposite."""
    for key, value in meaning.items():
        if parameters.get(key, value) != value:
            raise ConfigError(
                f"parameters.{name}: means {key}={value}, which is given as {parameters[key]!r}. Drop one."
            )
    return meaning
