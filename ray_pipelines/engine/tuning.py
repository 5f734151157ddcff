"""The budget of a batch, found while real rows run: no forward is made for the measurement alone.

`BudgetTuner` climbs a ladder of budgets, each twice the one before. It starts from what is good on most devices, tries
the neighbours on some batches of every length, moves to a neighbour that is clearly faster, and settles where none is.
From time to time it looks again. Speeds are compared among batches of like length only, since long rows cost more per
token; results never depend on any of this.

`BudgetStore` keeps what was found in the user's cache, by model, device, precision and threads.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["BudgetStore", "BudgetTuner", "cache_folder"]

logger = logging.getLogger(__name__)

WARM_UP_S = 0.5
TRIAL_S = 0.3
TRIAL_BATCHES = 4
MIN_GAIN = 1.04
FILLED = 0.6
STEPS_DOWN, STEPS_UP = 3, 8
BINS_PER_OCTAVE = 4
GIVE_UP_BATCHES = 160
REST_BATCHES = 400


@dataclass
class _Trial:
    """What was measured with one budget: by length, the cost that was done and the seconds that it took."""

    cost: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    seconds: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    num_batches: int = 0

    @property
    def is_enough(self) -> bool:
        return self.num_batches >= TRIAL_BATCHES and sum(self.seconds.values()) >= TRIAL_S


class BudgetTuner:
    """Chooses the budget of each batch.

    Args:
        start: The budget to start from.
        is_settled: Whether it was found before, so that it is only looked at again from time to time.

    >>> BudgetTuner(1024).next()
    1024
    """

    def __init__(self, start: int, *, is_settled: bool = False) -> None:
        self.best = start
        self.is_settled = is_settled
        self._lowest = max(1, start >> STEPS_DOWN)
        self._highest = start << STEPS_UP
        self._trials: dict[int, _Trial] = {}
        self._seconds = 0.0
        self._turn = 0
        self._since_move = 0
        self._rest = REST_BATCHES

    def next(self) -> int:
        """The budget of the next batch."""
        if self.is_settled or self._seconds < WARM_UP_S:
            return self.best
        candidates = self._candidates()
        self._turn += 1
        return candidates[self._turn % len(candidates)]

    def note(self, budget: int, cost: float, padded: float, longest: int, seconds: float) -> None:
        """Takes in what one batch has done.

        Args:
            budget: The budget that it was cut to.
            cost: Its cost without padding.
            padded: Its cost with padding.
            longest: The cost of its longest row.
            seconds: How long it took.
        """
        self._seconds += seconds
        if self._seconds < WARM_UP_S:
            return
        if self.is_settled:
            self._rest -= 1
            if self._rest <= 0:
                self.is_settled, self._rest, self._trials, self._since_move = False, REST_BATCHES, {}, 0
            return
        if padded > budget or padded < FILLED * budget:
            return
        trial = self._trials.setdefault(budget, _Trial())
        length = round(BINS_PER_OCTAVE * math.log2(max(1, longest)))
        trial.cost[length] += cost
        trial.seconds[length] += seconds
        trial.num_batches += 1
        self._since_move += 1
        self._decide()

    def limit(self, budget: int) -> None:
        """No budget above this from now on: it did not fit into memory."""
        self._highest = max(1, budget)
        self._lowest = min(self._lowest, self._highest)
        self.best = min(self.best, self._highest)
        self._trials = {size: trial for size, trial in self._trials.items() if size <= self._highest}

    def _candidates(self) -> list[int]:
        around = (self.best, self.best * 2, self.best // 2)
        return [budget for budget in around if self._lowest <= budget <= self._highest] or [self.best]

    def _decide(self) -> None:
        candidates = self._candidates()
        if not all(budget in self._trials and self._trials[budget].is_enough for budget in candidates):
            if self._since_move > GIVE_UP_BATCHES:
                self.is_settled = True
            return
        gains = {budget: _gain(self._trials[budget], self._trials[self.best]) for budget in candidates[1:]}
        better = max(gains, key=lambda budget: gains[budget], default=self.best)
        if gains.get(better, 0.0) >= MIN_GAIN:
            self.best, self._since_move = better, 0
        else:
            self.is_settled = True


def _gain(trial: _Trial, of: _Trial) -> float:
    """How many times faster `trial` was than `of` on the lengths that both have seen; 0 without any."""
    common = [length for length in trial.seconds if length in of.seconds]
    expected_s = sum(trial.cost[length] / of.cost[length] * of.seconds[length] for length in common)
    return expected_s / (sum(trial.seconds[length] for length in common) or float("inf"))


def cache_folder() -> Path:
    """Where this package keeps what it has measured: `RAY_PIPELINES_CACHE`, or the user's cache."""
    if own := os.environ.get("RAY_PIPELINES_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ray_pipelines"


class BudgetStore:
    """The budget that was found earlier for the same model on the same device.

    Args:
        key: What the budget depends on: model and commit, task, device, precision, threads.
        folder: Where budgets are kept.
    """

    def __init__(self, key: Mapping[str, Any], folder: Path) -> None:
        self._key = dict(key)
        digest = hashlib.blake2b(json.dumps(self._key, sort_keys=True, default=str).encode(), digest_size=12)
        self._file = folder / "budgets" / f"{digest.hexdigest()}.json"

    def load(self) -> int | None:
        """The budget, or None if there is none, or the file cannot be read."""
        try:
            budget = json.loads(self._file.read_text())["budget"]
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return budget if isinstance(budget, int) and budget > 0 else None

    def save(self, budget: int) -> None:
        """Keeps `budget`, whole even if several processes do so at once; a folder that is read-only is no error."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._file.parent, delete=False) as file:
                json.dump({"budget": budget, "for": self._key}, file, default=str)
            Path(file.name).replace(self._file)
        except OSError as error:
            logger.info("The budget %d is not kept: %s.", budget, error)
