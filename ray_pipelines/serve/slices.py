"""How large a slice of batch work is, so that it takes about as long as it may."""

from __future__ import annotations

__all__ = ["LONGEST_S", "SliceSize", "smoothed"]

MIN_GROWTH, MAX_GROWTH = 4 / 3, 2.0
OF_A_REQUEST = 1.5
"""How many times as long as forwards of requests a slice beside them may take, where its budget is less."""
LONGEST_S = 0.1
"""Of a slice, whatever else would allow more."""
SMOOTHING = 0.2


class SliceSize:
    """How much fits into a slice of some seconds: more as long as slices are shorter, less once one is longer.

    >>> size = SliceSize(budget_s=0.02)
    >>> size.num_entries(cost=10)
    1
    >>> size.note(cost=10, elapsed_s=0.005)
    >>> size.num_entries(cost=10)
    2

    Args:
        budget_s: Seconds of a slice, unless requests themselves take as long.
    """

    def __init__(self, budget_s: float) -> None:
        self._budget_s = budget_s
        self._request_s: float | None = None
        self._cost = 0.0

    def num_entries(self, cost: int) -> int:
        """How many chunks of this cost; at least one."""
        return max(1, int(self._cost / max(1, cost)))

    @property
    def budget_s(self) -> float:
        """Seconds that a slice may take."""
        return max(self._budget_s, min(LONGEST_S, OF_A_REQUEST * (self._request_s or 0.0)))

    def note_request(self, elapsed_s: float) -> None:
        """Learns from a forward of requests: short slices are no help to those who wait long for their own."""
        self._request_s = smoothed(self._request_s, elapsed_s)

    def note(self, cost: int, elapsed_s: float) -> None:
        """Learns from a slice."""
        growth = self.budget_s / max(elapsed_s, 1e-9)
        if growth < 1:
            self._cost = min(self._cost or cost, cost * growth)
        else:
            # What a forward costs in any case does not grow with it: a little more fits than it seems.
            self._cost = max(self._cost, cost * min(MAX_GROWTH, max(growth, MIN_GROWTH)))


def smoothed(known: float | None, latest: float) -> float:
    """What is known, moved a little towards the latest measurement; that itself if there was none."""
    return latest if known is None else known + SMOOTHING * (latest - known)
