"""Parameters that transformers has renamed or that have no use here: accepted, with a warning that says so."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from ray_pipelines.tasks import names

__all__ = ["modern_parameters"]

_Translation = Callable[[Any], dict[str, Any]]

OLD_NAMES: dict[str, dict[str, _Translation]] = {
    "text-classification": {"return_all_scores": lambda value: {"top_k": None if value else 1}},
    "token-classification": {
        "grouped_entities": lambda value: {"aggregation_strategy": "simple" if value else "none"},
        "ignore_subwords": lambda value: {"aggregation_strategy": "first"} if value else {},
    },
    "zero-shot-classification": {"multi_class": lambda value: {"multi_label": value}},
    "question-answering": {"topk": lambda value: {"top_k": value}},
    "mask-generation": {"output_rle_masks": lambda value: {"output_rle_mask": value}},
}


WITHOUT_EFFECT = {"timeout": "pictures and videos are read before the pipeline sees them."}


def modern_parameters(task_name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters under the names of today.

    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     modern_parameters("text-classification", {"return_all_scores": True})
    {'top_k': None}
    """
    modern: dict[str, Any] = {}
    for name, value in parameters.items():
        if name in WITHOUT_EFFECT and task_name in names():
            warnings.warn(f"parameters.{name} has no effect: {WITHOUT_EFFECT[name]}", UserWarning, stacklevel=3)
            continue
        translate = OLD_NAMES.get(task_name, {}).get(name)
        if translate is None:
            modern[name] = value
            continue
        translated = translate(value)
        now = ", ".join(f"{key}={new!r}" for key, new in translated.items()) or "nothing"
        warnings.warn(f"parameters.{name} is an old name; taken as {now}.", FutureWarning, stacklevel=3)
        modern |= translated
    return modern
