"""What `run` and `map` are given: items one after the other, or something with columns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["is_of", "items_of", "iterable_of"]

HAVE_COLUMNS = {"pandas": "columns", "pyarrow": "schema", "ray": "schema", "datasets": "keys"}
"""What those classes of a package have whose rows `map` takes, and the others do not: to be iterated is not theirs."""


def iterable_of(items: Any) -> Iterable[Any]:
    """`items` to go through one by one, as `run` does.

    Raises:
        TypeError: It is a single item, or has columns.
    """
    if any(is_of(items, package) and hasattr(items, attribute) for package, attribute in HAVE_COLUMNS.items()):
        raise TypeError(
            f"items: expected a list or an iterable of items; got a {type(items).__name__}, which has columns. "
            "Use .map, which takes it as it is."
        )
    items = items_of(items)
    if not isinstance(items, Iterable) and hasattr(items, "__getitem__") and hasattr(items, "__len__"):
        return map(items.__getitem__, range(len(items)))
    if isinstance(items, str | bytes | dict) or not isinstance(items, Iterable):
        raise TypeError(
            f"items: expected a list or an iterable of items; got a {type(items).__name__}. Wrap it: [item]."
        )
    return items


def items_of(data: Any) -> Any:
    """A column of pandas or Arrow as a list of Python's own objects, None where a value is missing; else `data`."""
    if is_of(data, "pandas"):
        return [None if missing else value for value, missing in zip(data, data.isna(), strict=True)]
    return data.to_pylist() if is_of(data, "pyarrow") else data


def is_of(data: Any, package: str) -> bool:
    """Whether `data` is of a class of `package`, which need not be imported to know it."""
    return any(base.__module__.split(".")[0] == package for base in type(data).__mro__)
