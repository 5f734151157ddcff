"""Candidate labels as rows and jobs write them."""

from __future__ import annotations

from typing import Any

from ray_pipelines.errors import InvalidInput


def parse_labels(value: Any, field_name: str = "candidate_labels") -> list[str]:
    """The labels of a list of strings, or of one string that separates them by commas.

    >>> parse_labels("sport, politics")
    ['sport', 'politics']

    Raises:
        InvalidInput: There is no label, or something else than strings.
    """
    if isinstance(value, str):
        labels = [label.strip() for label in value.split(",")]
        labels = [label for label in labels if label]
    elif isinstance(value, list | tuple) or hasattr(value, "tolist"):
        labels = list(value)
    else:
        got = "null" if value is None else type(value).__name__
        raise InvalidInput(f"{field_name}: expected a list of strings, or one string with commas; got {got}.")
    if not labels:
        raise InvalidInput(f"{field_name}: expected at least one label; got none.")
    for label in labels:
        if not isinstance(label, str):
            raise InvalidInput(f"{field_name}: expected strings; got a list with a {type(label).__name__}.")
    return [str(label) for label in labels]
