"""How large a slice of batch work is, so that it takes about as long as it may."""

from __future__ import annotations

__all__ = ["SliceSize"]

MIN_GROWTH, MAX_GROWTH = 4 / 3, 2.0


class SliceSize:
    """How much fits into a slice of some seconds: more as long as slices are shorter, less once one is longer.

    >>> size = SliceSize(budget_s=0.02)
    >>> size.num_entries(cost=10)
    1
    >>> size.note(cost=10, elapsed_s=0.005)
    >>> size.num_entries(cost=10)
    2

    Args:
        budget_s: Seconds of a slice.
    """

    def __init__(self, budget_s: float) -> None:
        self._budget_s = budget_s
        self._cost = 0.0

    def num_entries(self, cost: int) -> int:
        """How many chunks of this cost; at least one."""
        return max(1, int(self._cost / max(1, cost)))

    def note(self, cost: int, elapsed_s: float) -> None:
        """Learns from a slice."""
        growth = self._budget_s / max(elapsed_s, 1e-9)
        if growth < 1:
            self._cost = min(self._cost or cost, cost * growth)
        else:
            # What a forward costs in any case does not grow with it: a little more fits than it seems.
            self._cost = max(self._cost, cost * min(MAX_GROWTH, max(growth, MIN_GROWTH)))
