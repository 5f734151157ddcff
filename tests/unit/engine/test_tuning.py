"""The budget that is chosen on devices whose speed is in the test's hands, and where it is kept."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import ray_pipelines as rp
from ray_pipelines.engine.batching import plan_batches
from ray_pipelines.engine.tuning import BudgetStore, BudgetTuner
from tests.cases.media import image, sound


def settle(seconds_of: Callable[[int, int], float], start: int = 1024, num_batches: int = 2000) -> BudgetTuner:
    """A tuner after rows of 16 to 128 tokens on a device that takes `seconds_of(budget, length)` per token."""
    tuner = BudgetTuner(start)
    lengths = itertools.cycle([16, 24, 32, 48, 64, 96, 128])
    for _ in range(num_batches):
        budget, length = tuner.next(), next(lengths)
        cost = max(1, budget // length) * length
        tuner.note(budget, cost, cost, length, cost * seconds_of(budget, length))
        if tuner.is_settled:
            break
    return tuner


@pytest.mark.parametrize("fastest", [256, 512, 1024, 4096, 65536])
def test_tuner_climbs_to_the_fastest_budget(fastest: int) -> None:
    def per_token(budget: int, length: int) -> float:
        steps_away = abs(
            (budget // fastest).bit_length() - 1 if budget >= fastest else (fastest // budget).bit_length() - 1
        )
        return 1e-4 * (1 + 0.2 * steps_away) * (1 + length / 64)

    tuner = settle(per_token)
    assert tuner.is_settled and tuner.best == fastest


def test_tuner_stays_where_nothing_is_faster() -> None:
    tuner = settle(lambda budget, length: 1e-4 * (1 + length / 64))
    assert tuner.is_settled and tuner.best == 1024


def test_differences_of_length_are_not_taken_for_differences_of_speed() -> None:
    """Long rows cost more per token, and here they come only while the larger budget is tried."""
    tuner = BudgetTuner(1024)
    for _ in range(500):
        budget = tuner.next()
        length = 128 if budget > 1024 else 16
        tuner.note(budget, budget, budget, length, budget * 1e-4 * length)
    assert tuner.best <= 1024


def test_short_runs_are_not_experimented_on() -> None:
    tuner = BudgetTuner(1024)
    for _ in range(20):
        assert tuner.next() == 1024
        tuner.note(1024, 1000, 1000, 50, 0.01)


def test_what_did_not_fit_is_never_tried_again() -> None:
    tuner = BudgetTuner(1024)
    tuner.limit(700)
    tried = set()
    for _ in range(300):
        tried.add(tuner.next())
        tuner.note(max(tried), max(tried), max(tried), 16, 0.1 / max(tried))
    assert max(tried) == 700


def test_settled_tuner_looks_again_from_time_to_time() -> None:
    tuner = settle(lambda budget, length: 1e-4)
    tried = set()
    for _ in range(1000):
        budget = tuner.next()
        tried.add(budget)
        tuner.note(budget, budget, budget, 16, budget * 1e-4)
    assert len(tried) == 3


def test_few_requests_leave_the_budget_and_many_of_them_find_it() -> None:
    tuner = BudgetTuner(1024)
    for _ in range(500):
        tuner.note(tuner.next(), 20, 20, 20, 0.005, is_scarce=True)
    assert tuner.best == 1024 and not tuner.is_settled
    for _ in range(500):
        budget = tuner.next()
        tuner.note(budget, budget, budget, 16, budget * 1e-4, is_scarce=True)
    assert tuner.best == 1024 and tuner.is_settled


class Simulated:
    """A device whose forwards take `overhead_s`, and time for each padded token; large batches may cost more."""

    def __init__(self, overhead_s: float = 5e-3, token_s: float = 1e-4, slower_above: int = 1 << 40) -> None:
        self.overhead_s, self.token_s, self.slower_above = overhead_s, token_s, slower_above

    def seconds(self, padded: int) -> float:
        return self.overhead_s + padded * self.token_s * (1.0 if padded <= self.slower_above else 1.5)

    def run(self, lengths: Sequence[int], tuner: BudgetTuner, window_rows: int = 512, max_size: int = 256) -> float:
        """Seconds for rows of these lengths, in windows, with the budgets that `tuner` chooses."""
        total_s = 0.0
        for first in range(0, len(lengths), window_rows):
            window = lengths[first : first + window_rows]
            budgets: list[int] = []

            def following(budgets: list[int] = budgets) -> int:
                budgets.append(tuner.next())
                return budgets[-1]

            batches = plan_batches(window, max_size=max_size, budget=following)
            for batch, budget in zip(batches, budgets, strict=True):
                costs = [window[index] for index in batch]
                padded = max(costs) * len(costs)
                seconds = self.seconds(padded)
                tuner.note(budget, sum(costs), padded, max(costs), seconds)
                total_s += seconds
        return total_s

    def run_singly(self, lengths: Sequence[int]) -> float:
        return sum(self.seconds(length) for length in lengths)


MIXTURES: dict[str, list[int]] = {
    "equal": [100] * 6000,
    "two lengths": [5, 500] * 3000,
    "growing": [2 + row // 16 for row in range(8000)],
    "shrinking": [2 + row // 16 for row in range(8000)][::-1],
    "a huge row first": [4000] + [10] * 6000,
    "every 64th is long": [500 if row % 64 == 0 else 6 for row in range(6000)],
    "one row": [300],
    "all above the budget": [3000] * 2000,
}
SEARCH_S = 6.0
DEVICES = {
    "overhead": Simulated(),
    "compute": Simulated(overhead_s=1e-3),
    "small caches": Simulated(overhead_s=2e-3, slower_above=300),
}


@pytest.mark.parametrize("found", [None, 1 << 30])
@pytest.mark.parametrize("window_rows", [3, 512])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mixture", MIXTURES)
def test_no_mixture_is_slower_than_row_by_row(mixture: str, device: str, window_rows: int, found: int | None) -> None:
    lengths = MIXTURES[mixture]
    seconds = DEVICES[device].run(lengths, BudgetTuner(1024, found), window_rows)
    # Where only the smallest batches are good, finding that out takes some seconds, once.
    assert seconds <= 1.1 * DEVICES[device].run_singly(lengths) + SEARCH_S


@pytest.mark.parametrize("found", [1, 1 << 30])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mixture", ["equal", "two lengths", "every 64th is long"])
def test_what_a_bad_run_has_stored_is_soon_found_out(mixture: str, device: str, found: int) -> None:
    lengths = 3 * MIXTURES[mixture]
    misled = DEVICES[device].run(lengths, BudgetTuner(1024, found))
    assert misled <= 1.1 * DEVICES[device].run(lengths, BudgetTuner(1024)) + SEARCH_S


def test_rows_that_are_all_above_the_budget_share_forwards_in_the_end() -> None:
    device, tuner = Simulated(overhead_s=1.0), BudgetTuner(16)
    device.run([100] * 2000, tuner)
    assert tuner.best >= 200


def test_budget_is_kept_by_what_it_depends_on(tmp_path: Path) -> None:
    key = {"model": "org/tiny", "commit": "abc", "device": "cpu", "dtype": "torch.float32", "threads": 2}
    BudgetStore(key, tmp_path).save(2048)
    assert BudgetStore(dict(key), tmp_path).load() == 2048
    for name in key:
        assert BudgetStore({**key, name: "other"}, tmp_path).load() is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"budget": "many"}', '{"budget": 0}', "\x00"])
def test_unreadable_budgets_are_ignored(content: str, tmp_path: Path) -> None:
    store = BudgetStore({"model": "a"}, tmp_path)
    store.save(512)
    (file,) = (tmp_path / "budgets").iterdir()
    file.write_text(content)
    assert store.load() is None
    store.save(256)
    assert store.load() == 256


def test_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "budgets").write_text("a file")
    store = BudgetStore({"model": "a"}, tmp_path)
    store.save(512)
    assert store.load() is None


def test_many_writers_leave_a_whole_file(tmp_path: Path) -> None:
    store = BudgetStore({"model": "a"}, tmp_path)
    threads = [threading.Thread(target=lambda n=n: [store.save(n) for _ in range(50)]) for n in (100, 200, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files = list((tmp_path / "budgets").iterdir())
    assert len(files) == 1 and json.loads(files[0].read_text())["budget"] in (100, 200, 300)


def test_a_budget_of_which_enough_is_known_takes_no_more_turns() -> None:
    tuner = BudgetTuner(1024)
    taken: Counter[int] = Counter()
    for _ in range(60):
        budget = tuner.next()
        taken[budget] += 1
        # The best never has a full batch: nothing can be decided.
        padded = budget if budget != 1024 else 10
        tuner.note(budget, padded, padded, 16, 0.5, is_scarce=budget == 1024)
    assert tuner.best == 1024 and not tuner.is_settled
    assert taken[1024] > 40 and all(count <= 5 for budget, count in taken.items() if budget != 1024)


def test_nothing_below_the_lowest_is_tried() -> None:
    tuner = BudgetTuner(1024, least=256)
    tried = set()
    for _ in range(200):
        budget = tuner.next()
        tried.add(budget)
        tuner.note(budget, budget, budget, 16, 0.1)
    assert min(tried) == 256


@pytest.mark.parametrize(
    "task, name, item, values",
    [
        ("image-classification", "vit-classifier", image(), 3 * 30 * 30),
        ("automatic-speech-recognition", "wav2vec2-ctc", sound(300_000), 300_000),
    ],
)
def test_media_start_with_as_many_rows_as_have_a_number_of_values(
    task: str, name: str, item: Any, values: int, model: Callable[[str], str]
) -> None:
    spec = rp.pipeline(task, model=model(name), device="cpu")
    spec.run([item, item])
    assert spec._runner().counters.budget == min(64, (1 << 20) // values) * values
