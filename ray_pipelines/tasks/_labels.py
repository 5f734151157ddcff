"""Candidate labels: as rows and jobs write them, and what the zero-shot tasks share because of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import pydantic

from ray_pipelines.errors import InvalidInput
from ray_pipelines.tasks import Field, Parameters, RowCall

LABELS = Field(
    "candidate_labels",
    "any",
    "The labels of this row, a list or one string with commas; unset, those of the parameter.",
    required=False,
)


class LabelParameters(Parameters):
    """The labels of all rows that bring none of their own."""

    candidate_labels: Annotated[
        str | tuple[str, ...] | None,
        pydantic.Field(
            description="The labels to choose from, a list or one string with commas, for rows that bring none of "
            "their own."
        ),
    ] = None

    @pydantic.field_validator("candidate_labels")
    @classmethod
    def _labels_exist(cls, value: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if value is None else tuple(parse_labels(value))


class TemplateParameters(LabelParameters):
    """Labels, and the sentence that is made of each."""

    hypothesis_template: Annotated[
        str, pydantic.Field(description="What makes a sentence of a label, which takes the place of {}.")
    ]

    @pydantic.field_validator("hypothesis_template")
    @classmethod
    def _template_has_a_place(cls, value: str) -> str:
        try:
            has_place = value.format("label") != value
        except (IndexError, KeyError, ValueError):
            has_place = False
        if not has_place:
            raise ValueError(f"expected a template with one {{}}, where the label goes; got {value!r}.")
        return value


def label_arguments(parameters: LabelParameters) -> dict[str, Any]:
    """The keyword arguments of a zero-shot pipeline: what the user set, labels as a list."""
    arguments = parameters.model_dump(exclude_unset=True, exclude={"candidate_labels"})
    if parameters.candidate_labels is not None:
        arguments["candidate_labels"] = list(parameters.candidate_labels)
    return arguments


def with_labels(item: Any, fields: Mapping[str, Any]) -> Any:
    """The item, with the row's own labels if it has some."""
    if "candidate_labels" not in fields:
        return item
    return RowCall(item, {"candidate_labels": parse_labels(fields["candidate_labels"])})


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
