"""The executor against a pipeline whose device, failures and padding are in the test's hands."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_pipelines.config import BatchConfig
from ray_pipelines.engine.batching import Padding
from ray_pipelines.engine.forwards import CHECKED_BATCHES, CHECKED_CHUNKS
from ray_pipelines.engine.memory import DeviceLost
from ray_pipelines.engine.runner import Runner
from ray_pipelines.errors import RowError


class Task:
    batched = True


class Pipe:
    device = torch.device("cpu")
    dtype = torch.float32


class FakeSteps:
    """Items are lists of numbers: one chunk per number, as long as it says; the result is the list of their doubles.

    Args:
        capacity: Tokens that the device holds; a larger batch is out of memory.
        guilty: Numbers whose forward fails, whatever they share it with.
        leaks: Padding changes the outputs; a number for those of chunks of multiples of that length only.
        mixes: A batch changes the outputs, whether it is padded or not.
        max_batch: A larger batch fails with an error of another kind.
        fatal: Numbers that destroy the device.
        shortest: Shorter inputs fail, unless padding makes them so long.
    """

    task = Task()
    pipe = Pipe()
    padding = Padding({"input_ids": 0, "attention_mask": 0})
    is_random = False
    can_batch = True
    is_generic = False
    has_own_call = False
    group_size = 1
    can_finish_many = False
    num_truncated = 0
    extra_cost = 0
    is_exact = True
    warmup_s = 0.0
    num_graphs = 0

    def __init__(
        self,
        capacity: int = 10**9,
        guilty: Sequence[int] = (),
        leaks: int | bool = False,
        max_batch: int = 10**9,
        fatal: Sequence[int] = (),
        mixes: bool = False,
        shortest: int = 0,
    ) -> None:
        self.mixes, self.shortest = mixes, shortest
        self.capacity, self.guilty, self.leaks, self.max_batch, self.fatal = capacity, guilty, leaks, max_batch, fatal
        self.batches: list[list[int]] = []

    def preprocess(self, item: Any) -> Iterator[dict[str, Any]]:
        for number in item:
            if number == "bad":
                raise ValueError("a bad chunk")
            ids = torch.full((1, number), number)
            yield {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def with_parameters(self, parameters: Any, seed: int | None = None) -> FakeSteps:
        return self

    def forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        ids = inputs["input_ids"]
        numbers = ids.max(dim=1).values.tolist()
        self.batches.append(numbers)
        if ids.numel() > self.capacity:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        if set(numbers) & set(self.fatal):
            raise RuntimeError("CUDA error: device-side assert triggered")
        if set(numbers) & set(self.guilty):
            raise IndexError("index out of range in self")
        if ids.shape[1] < self.shortest:
            raise RuntimeError("max_pool1d() Invalid computed output size: 0")
        if len(numbers) > self.max_batch:
            raise ValueError("Cannot handle batch sizes > 1 if no padding token is defined.")
        doubled = 2.0 * ids.max(dim=1, keepdim=True).values
        if self.leaks:
            is_leaky = torch.tensor([[number % self.leaks == 0] for number in numbers])
            doubled = doubled + 0.5 * is_leaky * (ids.shape[1] - ids.max(dim=1, keepdim=True).values)
        doubled = doubled + (len(numbers) - 1 if self.mixes else 0)
        return {"logits": doubled if ids.shape[1] % 2 else doubled.long()}

    def postprocess(self, outputs: Sequence[dict[str, Any]]) -> list[float]:
        return [float(output["logits"]) for output in outputs]

    def is_sequence(self, name: str) -> bool:
        return False


class ApartSteps(FakeSteps):
    """Chunks of several lengths run apart, as some pipelines do; those of one length change one another."""

    def forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        numbers = inputs["input_ids"].max(dim=1).values.tolist()
        self.batches.append(numbers)
        return {"logits": torch.tensor([[2.0 * number + numbers.count(number) - 1] for number in numbers])}


def run(steps: FakeSteps, items: Sequence[Any], **batching: Any) -> list[Any]:
    runner = Runner(steps, BatchConfig(**batching))  # type: ignore[arg-type]
    return list(runner.run(items))


def doubled(items: Sequence[Sequence[int]]) -> list[list[float]]:
    return [[2.0 * number for number in item] for item in items]


ITEMS = st.lists(st.lists(st.integers(1, 30), max_size=7), max_size=25)


@settings(deadline=None)
@given(ITEMS, st.integers(1, 9), st.none() | st.integers(1, 200), st.integers(1, 20))
def test_results_do_not_depend_on_batches(items: list[list[int]], size: int, budget: int | None, window: int) -> None:
    assert run(FakeSteps(), items, max_size=size, budget=budget, window_rows=window) == doubled(items)


def test_results_come_while_items_are_still_read() -> None:
    seen = itertools.count()
    items = ([next(seen) + 1] for _ in range(1000))
    results = Runner(FakeSteps(), BatchConfig(window_rows=10)).run(items)  # type: ignore[arg-type]
    assert next(results) == [2.0]
    assert next(seen) <= 21


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 30))
def test_guilty_rows_fail_alone_within_a_bound_of_forwards(numbers: list[int], guilty: int) -> None:
    steps = FakeSteps(guilty=[guilty])
    results = run(steps, [[number] for number in numbers], max_size=16)
    for number, result in zip(numbers, results, strict=True):
        assert isinstance(result, RowError) == (number == guilty)
    num_guilty, num_batches = numbers.count(guilty), -(-len(numbers) // 16)
    num_compared = CHECKED_BATCHES * CHECKED_CHUNKS
    assert len(steps.batches) <= num_compared + num_batches + 2 * 5 * max(num_guilty, 1) + num_guilty


def test_what_one_caller_finds_out_of_memory_holds_for_all() -> None:
    runner = Runner(FakeSteps(capacity=64), BatchConfig(max_size=16))  # type: ignore[arg-type]
    for _ in range(2):
        assert list(runner.with_parameters(None).run([[10]] * 16)) == [[20.0]] * 16
        assert runner.counters.num_out_of_memory == 2


def test_rows_that_all_fail_cost_few_forwards_more_than_one_each() -> None:
    steps = FakeSteps(guilty=[3])
    runner = Runner(steps, BatchConfig(max_size=16))  # type: ignore[arg-type]
    assert all(isinstance(result, RowError) for result in runner.run([[3]] * 640))
    assert len(steps.batches) < 1.1 * 640
    steps.guilty = []
    assert list(runner.run([[3]] * 640)) == [[6.0]] * 640
    assert [len(batch) for batch in steps.batches[-20:]] == [16] * 20
    assert runner.counters.num_extra_forwards > 0


def test_search_for_a_guilty_row_is_counted() -> None:
    runner = Runner(FakeSteps(guilty=[9]), BatchConfig(max_size=16))  # type: ignore[arg-type]
    list(runner.run([[9 if n == 5 else 8] for n in range(16)]))
    assert runner.counters.num_failed_batches == 1
    assert 0 < runner.counters.num_extra_forwards <= 2 * 4
    assert runner.counters.num_forwards == 1 + runner.counters.num_extra_forwards


def test_what_fails_while_the_next_window_is_made_is_raised_in_its_place() -> None:
    def items() -> Iterator[list[int]]:
        yield from ([n] for n in range(1, 30))
        raise KeyError("the source broke")

    results = Runner(FakeSteps(), BatchConfig(window_rows=10)).run(items())  # type: ignore[arg-type]
    assert [next(results) for _ in range(10)] == [[2.0 * n] for n in range(1, 11)]
    with pytest.raises(KeyError, match="the source broke"):
        list(results)


@pytest.mark.parametrize(("num_items", "num_threads"), [(5, 1), (30, 2)])
def test_a_thread_is_started_only_where_there_is_a_window_to_prepare_meanwhile(
    num_items: int, num_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Runner, "_can_prefetch", lambda self: True)
    threads = set()

    def items() -> Iterator[list[int]]:
        for n in range(num_items):
            threads.add(threading.get_ident())
            yield [n + 1]

    list(Runner(FakeSteps(), BatchConfig(window_rows=10)).run(items()))  # type: ignore[arg-type]
    assert len(threads) == num_threads and threading.get_ident() in threads


def test_closing_the_results_ends_the_thread_that_preprocesses() -> None:
    results = Runner(FakeSteps(), BatchConfig(window_rows=10)).run([n] for n in itertools.count(1))  # type: ignore[arg-type]
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("preprocess")]


def test_out_of_memory_halves_the_batch_and_is_remembered() -> None:
    steps = FakeSteps(capacity=40)
    items = [[10] for _ in range(64)]
    assert run(steps, items, max_size=32, window_rows=32) == doubled(items)
    too_large = [batch for batch in steps.batches if len(batch) * 10 > 40]
    assert [len(batch) for batch in too_large] == [32, 16, 8]
    assert [len(batch) for batch in steps.batches[3:]] == [4, 1, *[4] * 15]


def test_row_that_does_not_fit_by_itself_is_a_dead_letter() -> None:
    results = run(FakeSteps(capacity=20), [[5], [50], [7]])
    assert results[0] == [10.0] and results[2] == [14.0]
    assert (results[1].stage, results[1].type) == ("forward", "RowTooLarge")


def test_model_that_cannot_be_batched_runs_row_by_row() -> None:
    steps = FakeSteps(max_batch=1)
    items = [[3] for _ in range(64)]
    assert run(steps, items, max_size=8, window_rows=16) == doubled(items)
    assert all(len(batch) == 1 for batch in steps.batches[5:])


@pytest.mark.parametrize("leaks", [True, 4])
def test_padding_that_changes_results_is_noticed_and_given_up(leaks: int) -> None:
    items = [[number] for number in (3, 9, 4, 9, 3, 5)]
    alone = run(FakeSteps(leaks=leaks), items, max_size=1)
    steps = FakeSteps(leaks=leaks)
    assert run(steps, items, max_size=8, window_rows=3) == alone
    assert [3, 9] not in [sorted(set(batch)) for batch in steps.batches[4:]]


@pytest.mark.parametrize("numbers", [(3, 3, 3, 5), (4, 4, 4, 4), (3, 5, 5, 3)])
def test_batch_that_changes_results_is_noticed_and_rows_run_one_by_one(numbers: Sequence[int]) -> None:
    items = [[number] for number in numbers] * 3
    steps = FakeSteps(mixes=True)
    assert run(steps, items, max_size=8, window_rows=4) == doubled(items)
    assert all(len(batch) == 1 for batch in steps.batches[-4:])


def test_a_row_that_is_too_short_by_itself_fails_beside_longer_ones_too() -> None:
    steps = FakeSteps(shortest=4)
    items = [[5], [2], [6], [9], *[[4], [5]] * 8, [3], [7]]
    results = run(steps, items, max_size=8, window_rows=2)
    assert [index for index, result in enumerate(results) if isinstance(result, RowError)] == [1, len(items) - 2]
    assert [result for result in results if not isinstance(result, RowError)] == [[2.0 * n] for [n] in items if n > 3]
    assert any(len(set(batch)) > 1 for batch in steps.batches[-4:])


def test_only_the_first_batch_and_the_first_padded_ones_are_compared() -> None:
    steps = FakeSteps()
    items = [[3], [3], [5], [5], *[[3], [5]] * 4]
    assert run(steps, items, max_size=2, window_rows=2) == doubled(items)
    assert [sorted(batch) for batch in steps.batches] == [[3, 3], [3], [5, 5], *[[3, 5], [3]] * 3, [3, 5]]


def test_chunks_of_several_lengths_are_compared() -> None:
    steps = FakeSteps()
    items = [[number] for number in (5, 5, 6, 7, 8, 9, 10, 11, 12)]
    assert run(steps, items, max_size=9) == doubled(items)
    assert [sorted(batch) for batch in steps.batches] == [[5, 5, 6, 7, 8, 9, 10, 11, 12], [5], [7], [9], [11]]


def test_chunk_that_fails_makes_its_row_one_error_and_leaves_no_trace() -> None:
    results = run(FakeSteps(guilty=[7]), [[1, 7, 2], [3], [4, "bad", 5], [6]], max_size=4, window_rows=2)
    assert [type(result).__name__ for result in results] == ["RowError", "list", "RowError", "list"]
    assert (results[0].stage, results[2].stage) == ("forward", "preprocess")


def test_errors_among_the_items_are_handed_on() -> None:
    error = RowError("decode", "MediaError", "broken")
    assert run(FakeSteps(), [[1], error, [2]]) == [[2.0], error, [4.0]]


def test_lost_device_is_not_a_dead_letter() -> None:
    with pytest.raises(DeviceLost):
        run(FakeSteps(fatal=[5]), [[1], [5], [2]])


def test_errors_hold_no_tensors_of_their_batch() -> None:
    (error,) = run(FakeSteps(guilty=[5]), [[5]])
    traceback, variables = error.__cause__.__traceback__, []
    while traceback is not None:
        variables += [value for value in traceback.tb_frame.f_locals.values() if isinstance(value, torch.Tensor)]
        traceback = traceback.tb_next
    assert variables == []


def test_a_batch_of_several_lengths_does_not_hide_what_those_of_one_length_do() -> None:
    assert run(ApartSteps(), [[1], [2], [2], [3]]) == [[2.0], [4.0], [4.0], [6.0]]
    assert run(ApartSteps(), [[1], [2]] * 4, max_size=2) == [[2.0], [4.0]] * 4
