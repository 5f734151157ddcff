"""How far two ways to run the same rows agree: nested results compared leaf by leaf.

Used for what precision and other savings change (`optimize`), and wherever else results have a reference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_pipelines.errors import RowError

__all__ = ["Agreement", "differences"]


@dataclass(frozen=True)
class Agreement:
    """How far results agree with a reference.

    Attributes:
        num_rows: Rows that were compared.
        num_equal: Rows in which everything but decimal numbers is equal: labels, texts, lengths, pictures.
        max_difference: Largest absolute difference between two decimal numbers that belong together: scores, vectors.
        reference: What the results were compared with.
        reason: Why nothing was compared, where nothing was.
    """

    num_rows: int
    num_equal: int
    max_difference: float
    reference: str = "float32"
    reason: str = ""

    @classmethod
    def of(cls, results: Sequence[Any], references: Sequence[Any], reference: str = "float32") -> Agreement:
        """The agreement of results with those of the same rows in `references`.

        >>> mine, theirs = [{"label": "a", "score": 0.5}], [{"label": "a", "score": 0.25}]
        >>> Agreement.of(mine, theirs).max_difference
        0.25

        Args:
            results: One result, or `RowError`, per row.
            references: The same rows by the way that is trusted.
            reference: What that way is called.

        Raises:
            ValueError: The two have different numbers of rows.
        """
        found = [list(differences(mine, theirs)) for mine, theirs in zip(results, references, strict=True)]
        numbers = [number for row in found for number in row if number is not None]
        return cls(
            num_rows=len(found),
            num_equal=sum(None not in row for row in found),
            max_difference=_largest(numbers),
            reference=reference,
        )

    @classmethod
    def of_parts(cls, parts: Mapping[str, Agreement]) -> Agreement | None:
        """The agreement over all tasks of a job: rows of each are counted; None without any.

        >>> str(Agreement.of_parts({"a": Agreement(4, 4, 0.5), "b": Agreement(4, 2, 0.1)}))
        '75.0% of 8 rows as in float32, numbers differ by 0.5 at most'
        """
        if len(parts) < 2:
            return next(iter(parts.values()), None)
        unknown = {name: part.reason for name, part in parts.items() if not part.num_rows}
        if unknown:
            return cls.unknown("; ".join(f"{name}: {reason}" for name, reason in unknown.items()))
        return cls(
            num_rows=sum(part.num_rows for part in parts.values()),
            num_equal=sum(part.num_equal for part in parts.values()),
            max_difference=_largest([part.max_difference for part in parts.values()]),
            reference=next(iter(parts.values())).reference,
        )

    @classmethod
    def unknown(cls, reason: str) -> Agreement:
        """That nothing could be compared, and why."""
        return cls(0, 0, 0.0, reason=reason)

    @property
    def share_equal(self) -> float:
        """Share of the rows that are equal but for decimal numbers, 0 to 1."""
        return self.num_equal / self.num_rows if self.num_rows else 0.0

    def as_dict(self) -> dict[str, Any]:
        """The agreement as JSON holds it; the difference is null where a number is NaN or infinite on one side only."""
        if not self.num_rows:
            return {"num_rows": 0, "reason": self.reason}
        return {
            "reference": self.reference,
            "num_rows": self.num_rows,
            "share_equal": round(self.share_equal, 4),
            "max_difference": float(f"{self.max_difference:.4g}") if math.isfinite(self.max_difference) else None,
        }

    def __str__(self) -> str:
        if not self.num_rows:
            return f"not measured: {self.reason}"
        return (
            f"{self.share_equal:.1%} of {self.num_rows:,} rows as in {self.reference}, "
            f"numbers differ by {self.max_difference:.2g} at most"
        )


def differences(result: Any, reference: Any) -> Iterator[float | None]:
    """The absolute difference of each pair of decimal numbers, and None for everything else that is not equal.

    Lists of labels with scores count as equal if the first label is the same; scores are compared label by label. An
    array, or a list of numbers, gives its largest difference.

    >>> list(differences({"answer": "yes", "scores": [0.5, 1.0]}, {"answer": "no", "scores": [0.5, 0.75]}))
    [None, 0.25]
    """
    if isinstance(result, RowError) or isinstance(reference, RowError):
        if not (isinstance(result, RowError) and isinstance(reference, RowError) and result.type == reference.type):
            yield None
    elif isinstance(result, Mapping) and isinstance(reference, Mapping):
        if result.keys() != reference.keys():
            yield None
        for name in result:
            if name in reference:
                yield from differences(result[name], reference[name])
    elif _is_array(result) and _is_array(reference):
        yield from _array_differences(np.asarray(result), np.asarray(reference))
    elif isinstance(result, list | tuple) and isinstance(reference, list | tuple):
        yield from _list_differences(result, reference)
    elif isinstance(result, float | np.floating) and isinstance(reference, float | np.floating):
        yield _distance(float(result), float(reference))
    elif type(result) is not type(reference) or result != reference:
        yield None


def _list_differences(result: Sequence[Any], reference: Sequence[Any]) -> Iterator[float | None]:
    if _are_scored_labels(result) and _are_scored_labels(reference) and result and reference:
        if result[0]["label"] != reference[0]["label"]:
            yield None
        scores = {row["label"]: row["score"] for row in reference}
        yield from (_distance(row["score"], scores[row["label"]]) for row in result if row["label"] in scores)
        return
    if len(result) != len(reference):
        yield None
    for mine, theirs in zip(result, reference, strict=False):
        yield from differences(mine, theirs)


def _array_differences(result: np.ndarray, reference: np.ndarray) -> Iterator[float | None]:
    if result.shape != reference.shape:
        yield None
    elif result.dtype.kind == "f" and reference.dtype.kind == "f":
        if result.size:
            both_nan = np.isnan(result) & np.isnan(reference)
            gaps = np.abs(result.astype(np.float64) - reference.astype(np.float64))
            yield float(np.max(np.where(both_nan | (result == reference), 0.0, gaps)))
    elif not np.array_equal(result, reference):
        yield None


def _are_scored_labels(rows: Sequence[Any]) -> bool:
    return all(isinstance(row, Mapping) and row.keys() == {"label", "score"} for row in rows)


def _is_array(value: Any) -> bool:
    is_vector = isinstance(value, list) and value and all(isinstance(item, float) for item in value)
    return isinstance(value, np.ndarray) or bool(is_vector)


def _distance(first: float, second: float) -> float:
    if first == second or (math.isnan(first) and math.isnan(second)):
        return 0.0
    return abs(first - second)


def _largest(numbers: Sequence[float]) -> float:
    """The largest number; NaN if there is one, which `max` would lose."""
    return float(np.max(numbers)) if numbers else 0.0
