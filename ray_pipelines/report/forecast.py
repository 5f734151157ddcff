"""How long a run would take, foretold from few rows, and how far off that was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Forecast"]

FIRST_SHARE = 0.1
"""Of the rows, after which a run foretells its own end."""


@dataclass(frozen=True)
class Forecast:
    """How long a run would take.

    Attributes:
        source: Who says so: `ray-pipelines plan`, or the first rows of the run itself.
        rows_per_s: Rows per second once workers are loaded.
        total_s: Seconds in all, from start to end.
        low_s, high_s: The range that was given with it.
    """

    source: Literal["plan", "first rows"]
    rows_per_s: float
    total_s: float
    low_s: float
    high_s: float

    @classmethod
    def of_first_rows(cls, num_expected: int, num_rows: int, rows_per_s: float, elapsed_s: float) -> Forecast | None:
        """What a run's own first rows foretell; None before there are enough of them, or when nearly all are done."""
        if not FIRST_SHARE <= num_rows / num_expected <= 1 - FIRST_SHARE or not rows_per_s:
            return None
        left_s = (num_expected - num_rows) / rows_per_s
        return cls("first rows", rows_per_s, elapsed_s + left_s, elapsed_s + left_s / 1.5, elapsed_s + left_s * 1.5)

    def off_by(self, elapsed_s: float) -> float:
        """By how much the run took longer (positive) or shorter than foretold, as a share of the forecast.

        >>> Forecast("plan", 10.0, 200.0, 150.0, 250.0).off_by(250.0)
        0.25
        """
        return elapsed_s / self.total_s - 1 if self.total_s else 0.0

    def as_dict(self, elapsed_s: float) -> dict[str, Any]:
        """The forecast beside what came of it, as JSON holds it."""
        return {
            "source": self.source,
            "rows_per_s": round(self.rows_per_s, 2),
            "total_s": round(self.total_s, 2),
            "range_s": [round(self.low_s, 2), round(self.high_s, 2)],
            "off_by": round(self.off_by(elapsed_s), 4),
            "within_range": self.low_s <= elapsed_s <= self.high_s,
        }

    def describe(self, elapsed_s: float) -> str:
        """One line for people."""
        off = self.off_by(elapsed_s)
        more = "longer" if off >= 0 else "shorter"
        who = "the plan" if self.source == "plan" else "its first rows"
        return f"{elapsed_s:,.0f} s, {abs(off):.0%} {more} than {who} foretold ({self.total_s:,.0f} s)"
