"""The budget of a batch, found while real rows run: no forward is made for the measurement alone.

`BudgetTuner` climbs a ladder of budgets, each twice the one before. It starts from what is good on most devices, tries
the neighbours on some batches of every length, at first the start and the lowest budget too, moves to what is clearly
faster, and settles where nothing is. From time to time it looks again, and soon where the budget was found by an
earlier run, on other rows perhaps or beside other work. A budget that batches never fill, or that every row exceeds, is
moved to where they do. Speeds are compared among batches of like length only, since long rows cost more per token;
results never depend on any of this.

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
STEPS_DOWN, STEPS_UP = 4, 8
MAX_STEPS_FOUND = 3
BINS_PER_OCTAVE = 4
GIVE_UP_BATCHES = 600
MAX_TURNS = 8
REST_BATCHES = 400
FIRST_REST_BATCHES, FIRST_REST_S = 40, 3.0
MAX_UNFILLED = 4
MAX_ROWS_ABOVE = 600
"""More than the rows of a window: there are no shorter rows in between."""


@dataclass
class _Trial:
    """What was measured with one budget: by length, the cost that was done and the seconds that it took."""

    cost: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    seconds: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    num_batches: int = 0

    @property
    def is_enough(self) -> bool:
        seconds = sum(self.seconds.values())
        return seconds >= TRIAL_S and (self.num_batches >= TRIAL_BATCHES or seconds >= TRIAL_BATCHES * TRIAL_S)


class BudgetTuner:
    """Chooses the budget of each batch.

    Args:
        start: The budget to start from, which is good on most devices.
        found: The budget that an earlier run has found, as far as it is near enough to `start` to be believed.
        least: No lower budget is tried, as long as `start` is none: the cost of the cheapest row, say.

    >>> BudgetTuner(1024).next()
    1024
    >>> BudgetTuner(1024, found=512).next()
    512
    """

    def __init__(self, start: int, found: int | None = None, least: int = 1) -> None:
        self._start = start
        self._lowest = min(start, max(least, start >> STEPS_DOWN))
        self._highest = start << STEPS_UP
        self.best = start if found is None else min(max(found, self._lowest), start << MAX_STEPS_FOUND)
        self.is_settled = found is not None
        self._trials: dict[int, _Trial] = {}
        self._seconds = 0.0
        self._turn = 0
        self._since_move = 0
        self._rest = REST_BATCHES if found is None else FIRST_REST_BATCHES
        self._rest_ends_s = float("inf") if found is None else WARM_UP_S + FIRST_REST_S
        self._is_first_search = True
        self._unfilled: dict[int, int] = {}
        self._fullest = 0
        self._num_above = 0

    def next(self) -> int:
        """The budget of the next batch."""
        if self.is_settled or self._seconds < WARM_UP_S:
            return self.best
        # Small batches take turns more often, since they take less time.
        open_ones = filter(self._is_open, self._candidates())
        turns = [(budget, min(MAX_TURNS, max(1, self.best // budget))) for budget in open_ones]
        self._turn = (self._turn + 1) % sum(number for _, number in turns)
        place = self._turn
        for budget, number in turns:
            if place < number:
                return budget
            place -= number
        return self.best

    def note(
        self, budget: int, cost: float, padded: float, longest: int, seconds: float, is_scarce: bool = False
    ) -> None:
        """Takes in what one batch has done.

        Args:
            budget: The budget that it was cut to.
            cost: Its cost without padding.
            padded: Its cost with padding.
            longest: The cost of its longest row.
            seconds: How long it took.
            is_scarce: Rows come as they come: a batch that is small for want of them says nothing of the budget.
        """
        self._seconds += seconds
        if self._seconds < WARM_UP_S:
            return
        self._num_above = self._num_above + 1 if padded > budget else 0
        if self._num_above >= MAX_ROWS_ABOVE:
            self._look_again(int(2 * padded))
        if self.is_settled:
            self._rest -= 1
            if self._rest <= 0 or self._seconds >= self._rest_ends_s:
                self._look_again(self.best)
            return
        if padded < FILLED * budget:
            if not is_scarce:
                self._note_unfilled(budget, int(padded))
            return
        self._unfilled[budget] = 0
        trial = self._trials.setdefault(budget, _Trial())
        length = round(BINS_PER_OCTAVE * math.log2(max(1, longest)))
        trial.cost[length] += cost
        trial.seconds[length] += seconds
        trial.num_batches += 1
        self._since_move += 1
        self._decide()

    def _note_unfilled(self, budget: int, padded: int) -> None:
        """Takes the budget down to the fullest of many batches that had too few rows for it."""
        self._unfilled[budget] = self._unfilled.get(budget, 0) + 1
        self._fullest = max(self._fullest, padded)
        if budget == self.best and self._unfilled[budget] >= MAX_UNFILLED:
            self._move(self._fullest)

    def _look_again(self, budget: int) -> None:
        self.is_settled, self._rest, self._rest_ends_s, self._trials = False, REST_BATCHES, float("inf"), {}
        self._move(budget)

    def _move(self, budget: int) -> None:
        self.best = min(max(budget, self._lowest), self._highest)
        self._since_move = self._num_above = self._fullest = 0
        self._unfilled = {}

    def limit(self, budget: int) -> None:
        """No budget above this from now on: it did not fit into memory."""
        self._highest = max(1, budget)
        self._lowest = min(self._lowest, self._highest)
        self.best = min(self.best, self._highest)
        self._trials = {size: trial for size, trial in self._trials.items() if size <= self._highest}

    def _candidates(self) -> list[int]:
        # What is better far away does not show in the neighbours: the first search looks there too.
        far = (self._start, self._lowest) if self._is_first_search else ()
        around = dict.fromkeys((self.best, self.best * 2, self.best // 2, *far))
        return [budget for budget in around if budget == self.best or self._is_possible(budget)]

    def _is_possible(self, budget: int) -> bool:
        return self._lowest <= budget <= self._highest and self._unfilled.get(budget, 0) < MAX_UNFILLED

    def _is_open(self, budget: int) -> bool:
        """Whether more has to be known of a budget: it is the best, or cannot be compared with it yet."""
        trial, best = self._trials.get(budget), self._trials.get(self.best)
        if budget == self.best or trial is None or not trial.is_enough:
            return True
        return best is not None and not trial.seconds.keys() & best.seconds.keys()

    def _decide(self) -> None:
        gains = self._gains()
        if gains is None:
            if self._since_move > GIVE_UP_BATCHES:
                self._settle()
            return
        better = max(gains, key=lambda budget: gains[budget], default=self.best)
        if gains.get(better, 0.0) >= MIN_GAIN:
            self._move(better)
        else:
            self._settle()

    def _settle(self) -> None:
        self.is_settled, self._is_first_search = True, False

    def _gains(self) -> dict[int, float] | None:
        """How many times faster than the best each other candidate is; None while not enough is measured."""
        best, *others = (self._trials.get(budget) for budget in self._candidates())
        if best is None or not best.is_enough:
            return None
        gains = {}
        for budget, trial in zip(self._candidates()[1:], others, strict=True):
            if trial is None or not trial.is_enough or not trial.seconds.keys() & best.seconds.keys():
                return None
            gains[budget] = _gain(trial, best)
        return gains


def _gain(trial: _Trial, of: _Trial) -> float:
    """How many times faster `trial` was than `of` on the lengths that both have seen, of which there must be some."""
    common = trial.seconds.keys() & of.seconds.keys()
    expected_s = sum(trial.cost[length] / of.cost[length] * of.seconds[length] for length in common)
    return expected_s / sum(trial.seconds[length] for length in common)


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
