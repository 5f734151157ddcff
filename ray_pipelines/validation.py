"""Pydantic's findings as lines that a person can act on."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

__all__ = [
    "bounds_of",
    "check_bounds",
    "describe_validation_error",
    "did_you_mean",
    "is_typo",
    "model_of",
    "model_of_json",
    "variable_hint",
]

M = TypeVar("M", bound=BaseModel)

MAX_VALUE_CHARS = 80
TYPES = {
    "string": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
}
"""What a value should have been, by the first word of pydantic's name for the error."""
_VARIABLE = re.compile(r"\$\{\w+\}|(?<![^/])\$[A-Za-z_]\w*")
"""A variable of a shell in a path, where it is hardly a part of a name."""


def variable_hint(path: str) -> str:
    """What is wrong with a path in which a variable stands as for a shell; nothing with another.

    >>> variable_hint("$HOME/out")
    ' No variable is replaced here, such as $HOME: write its value, or use --set, where your shell does it.'
    >>> variable_hint("s3://bucket/a$b/")
    ''
    """
    found = _VARIABLE.search(path)
    hint = "write its value, or use --set, where your shell does it."
    return f" No variable is replaced here, such as {found[0]}: {hint}" if found else ""


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """A hint at the nearest of `candidates`, or an empty string.

    >>> did_you_mean("topk", ["top_k", "function_to_apply"])
    ' Did you mean "top_k"?'
    >>> did_you_mean("zzz", ["top_k"])
    ''
    """
    matches = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.6)
    return f' Did you mean "{matches[0]}"?' if matches else ""


@lru_cache
def is_typo(name: object, candidates: frozenset[str]) -> bool:
    """Whether `name` nearly is one of `candidates`; asked of every row, which mostly have the same names.

    >>> is_typo("text_pairs", frozenset({"text_pair"})), is_typo("text_id", frozenset({"text_pair"}))
    (True, False)
    """
    return isinstance(name, str) and bool(difflib.get_close_matches(name, candidates, n=1, cutoff=0.8))


def bounds_of(value: int | tuple[int, int]) -> tuple[int, int]:
    """The least and the most that a number of workers or replicas stands for."""
    return value if isinstance(value, tuple) else (value, value)


def check_bounds(value: int | tuple[int, int], what: str) -> None:
    """Raises ValueError unless `value` is a number of workers or replicas, or the least and the most of them.

    >>> check_bounds((3, 1), "worker")
    Traceback (most recent call last):
    ValueError: expected at least 1 worker, as N or [least, most], least first; got [3, 1].
    """
    least, most = bounds_of(value)
    if not 1 <= least <= most:
        got = [least, most] if isinstance(value, tuple) else value
        raise ValueError(f"expected at least 1 {what}, as N or [least, most], least first; got {got}.")


def describe_validation_error(error: ValidationError, where: str, model: type[BaseModel]) -> list[str]:
    """One line per problem: `<key>: expected …; got ….`, with the nearest name for an unknown key.

    Args:
        error: What pydantic raised.
        where: Prefix of all keys, e.g. `parameters`; may be empty.
        model: The model that was validated, to look up the names that exist.
    """
    problems: dict[str, None] = {}
    for detail in error.errors(include_url=False):
        # The last part of an unknown name's location is that name, whatever it looks like.
        where_from = detail["loc"]
        own = where_from[-1:] if detail["type"] == "extra_forbidden" else ()
        around = where_from[: len(where_from) - len(own)]
        path = [*(part for part in around if isinstance(part, int) or not _is_union_branch(part)), *own]
        key = ".".join(str(part) for part in ([where] if where else []) + path)
        found = _describe(detail, path, model)
        problems[f"{key}: {found}" if key else found] = None
    return list(problems)


def model_of_json(data: str | bytes, model: type[M]) -> M:
    """What JSON says, as a `model`.

    Raises:
        ValueError: It is no JSON, or says something else; in one line.
    """
    return model_of(json.loads(data), model)


def model_of(values: Any, model: type[M]) -> M:
    """What a file said, as a `model`.

    Raises:
        ValueError: It says something else; in one line.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ValueError(" ".join(describe_validation_error(error, "", model))) from None


def _describe(detail: Any, path: list[Any], model: type[BaseModel]) -> str:
    is_secret = {"filesystem", "token", "hub_token", "key", "secret", "storage_options"} & {str(part) for part in path}
    got = "a value that is not shown" if is_secret else _shorten(detail["input"])
    if detail["type"] == "extra_forbidden":
        known = _field_names(model, path[:-1])
        listed = f" Known: {', '.join(known)}." if known else ""
        return f"unknown name.{did_you_mean(str(path[-1]), known)}{listed}"
    if detail["type"] == "missing":
        return "is required."
    if detail["type"] == "literal_error":
        expected = detail["ctx"]["expected"]
        choices = [choice.strip(" '") for choice in expected.replace(" or ", ",").split(",")]
        return f"expected {expected}; got {got}.{did_you_mean(str(detail['input']), choices)}"
    if detail["type"] in ("model_type", "model_attributes_type", "dict_type"):
        names = _field_names(model, path)
        hint = (
            f" Write {{path: {detail['input']}}}." if names[:1] == ["path"] and isinstance(detail["input"], str) else ""
        )
        listed = f" of {', '.join(names)}" if names else ""
        return f"expected a mapping{listed}; got {got}.{hint}"
    if detail["type"] == "value_error":
        return str(detail["msg"]).removeprefix("Value error, ").removeprefix(f"{path[-1]}: " if path else "")
    kind, _, what = str(detail["type"]).partition("_")
    if detail["type"] == "string_pattern_mismatch":
        return f"expected a text that matches {detail['ctx']['pattern']}; got {got}."
    if kind in TYPES and what in ("type", "parsing", "from_float"):
        return f"expected {TYPES[kind]}; got {got}."
    return f"expected {str(detail['msg']).removeprefix('Input should be ')}; got {got}."


def _is_union_branch(part: str) -> bool:
    """Whether a part of pydantic's location names a branch of a union rather than a key."""
    is_type = part in {"str", "int", "float", "bool", "dict", "Constant"} or part.startswith("constrained-")
    return is_type or any(character in part for character in "[(")


def _field_names(model: type[BaseModel], path: list[Any]) -> list[str]:
    parts = iter(path)
    for part in parts:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if get_origin(annotation) is dict and next(parts, None) is not None:
            annotation = get_args(annotation)[1]
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


def _shorten(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= MAX_VALUE_CHARS else text[: MAX_VALUE_CHARS - 1] + "…"
