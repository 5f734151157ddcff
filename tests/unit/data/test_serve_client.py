"""A job's side of a Serve application, against one that is an argument: nothing here is Serve's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_pipelines.data import serve_calls
from ray_pipelines.data import serve_client as module
from ray_pipelines.data.serve_client import AppState, Client, Lost, Unavailable
from ray_pipelines.engine.counters import Counters
from ray_pipelines.engine.exchange import RowAnswers, RowBatch
from ray_pipelines.errors import ConfigError, JobError
from ray_pipelines.media.limits import MediaLimits


class App:
    """An application whose replicas do as they are told.

    Args:
        does: What a call with these texts does: gives how many rows are answered, or raises.
    """

    name = "app"

    def __init__(self, does: Callable[[list[str]], int] = len, num_running: int = 1) -> None:
        self.does = does
        self.now = AppState("RUNNING", num_running)
        self.calls: list[list[str]] = []
        self.num_inside = self.most_inside = 0

    async def state(self) -> AppState:
        return self.now

    async def call(self, batch: RowBatch) -> RowAnswers:
        texts = batch.columns["text"].to_pylist()
        self.calls.append(texts)
        self.num_inside += 1
        self.most_inside = max(self.most_inside, self.num_inside)
        assert not batch.is_alone or self.num_inside == 1
        try:
            await asyncio.sleep(0)
            num_rows = self.does(texts)
        finally:
            self.num_inside -= 1
        return RowAnswers.of({row: texts[row].upper() for row in range(num_rows)}, pa.string(), Counters(num_chunks=1))


def batch_of(texts: list[str]) -> RowBatch:
    columns = pa.table({"text": pa.array(texts, type=pa.string())})
    return RowBatch("fill-mask", "identity", {}, 0, MediaLimits(), len(texts), columns)


def run(app: App, *blocks: list[str], wait_s: float = 60, timeout_s: float | None = None) -> list[Any]:
    async def main() -> list[Any]:
        client = Client(app, wait_s, timeout_s)
        answers = await asyncio.gather(*(client.run(batch_of(texts), pa.string()) for texts in blocks))
        return [list(zip(made.results.to_pylist(), made.errors.to_pylist(), strict=True)) for made in answers]

    return asyncio.run(main())


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_BACKOFF_S", "MAX_BACKOFF_S", "POLL_S"):
        monkeypatch.setattr(module, name, 0.001)


def test_blocks_go_in_calls_of_a_bounded_size_two_at_a_time_for_each_replica() -> None:
    app = App(num_running=3)
    texts = [f"t{n}" for n in range(600)]
    made = run(app, *[texts] * 4)
    assert made == [[(text.upper(), None) for text in texts]] * 4
    assert {len(call) for call in app.calls} == {256, 88}
    assert 2 < app.most_inside <= 6


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.lists(st.sampled_from("ulr3"), max_size=30))
@settings(max_examples=40, deadline=None)
def test_every_row_is_answered_once_in_order_whatever_becomes_of_calls(rows: list[int], fates: list[str]) -> None:
    left = list(fates)

    def does(texts: list[str]) -> int:
        fate = left.pop() if left else "r"
        if fate == "u":
            raise Unavailable
        if fate == "l" and len(texts) > 1:
            raise Lost
        return min(3, len(texts)) if fate == "3" else len(texts)

    texts = [f"{place}-{n}" for place, n in enumerate(rows)]
    assert run(App(does), texts) == [[(text.upper(), None) for text in texts]]


def test_a_row_over_which_replicas_die_is_a_dead_letter_after_two_deaths_alone() -> None:
    def does(texts: list[str]) -> int:
        if "deadly" in texts:
            raise Lost
        return len(texts)

    app = App(does)
    texts = [f"t{n}" for n in range(100)]
    texts[42] = "deadly"
    (made,) = run(app, texts)
    assert [error and error["type"] for _, error in made] == [None] * 42 + ["WorkerKilled"] + [None] * 57
    assert [result for result, _ in made] == [text.upper() if text != "deadly" else None for text in texts]
    assert sum("deadly" in call for call in app.calls) == 4
    assert app.calls.count(["deadly"]) == 2


def test_rows_that_kill_one_replica_after_the_other_end_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0)

    def does(texts: list[str]) -> int:
        raise Lost

    with pytest.raises(JobError, match="20 replicas of app have died one after the other"):
        run(App(does), [f"t{n}" for n in range(100)])


def test_calls_that_are_lost_together_are_one_death(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 60)
    dead = [True] * 30

    def does(texts: list[str]) -> int:
        if dead:
            dead.pop()
            raise Lost
        return len(texts)

    app = App(does, num_running=32)
    assert all(error is None for block in run(app, *[[f"t{n}"] * 17 for n in range(40)]) for _, error in block)


@pytest.mark.parametrize(("status", "said"), [("NOT_FOUND", "is gone"), ("DEPLOY_FAILED", "is DEPLOY_FAILED and no")])
def test_an_application_that_does_not_come_back_ends_the_job_with_a_clear_error(status: str, said: str) -> None:
    class Gone(App):
        async def call(self, batch: RowBatch) -> RowAnswers:
            self.now = AppState(status, 0)
            await asyncio.sleep(60)
            raise AssertionError

    with pytest.raises(JobError, match=f"the application 'app' {said}.*run the same job again"):
        run(Gone(), ["a"], ["b"], wait_s=0.05)


def test_an_application_that_comes_back_goes_on() -> None:
    class Recreated(App):
        async def state(self) -> AppState:
            self.calls.append([])
            return AppState("NOT_FOUND", 0) if len(self.calls) % 5 else AppState("RUNNING", 1)

    assert run(Recreated(), ["a"], wait_s=5) == [[("A", None)]]


def test_replicas_that_take_no_row_for_too_long_end_the_job() -> None:
    def does(texts: list[str]) -> int:
        raise Unavailable

    with pytest.raises(JobError, match="has turned away all rows"):
        run(App(does), ["a"], wait_s=0.05)


def test_a_call_that_is_not_answered_is_made_again_and_at_last_given_up() -> None:
    class Silent(App):
        async def call(self, batch: RowBatch) -> RowAnswers:
            self.calls.append([])
            await asyncio.sleep(60)
            raise AssertionError

    app = Silent()
    with pytest.raises(JobError, match=r"has not answered 3 calls of 1 row\(s\) within 0.02 s each"):
        run(app, ["a"], timeout_s=0.02)
    assert len(app.calls) == 3


def test_an_application_with_another_model_ends_the_job() -> None:
    def does(texts: list[str]) -> int:
        raise ConfigError("workers.serve: serves another model")

    with pytest.raises(ConfigError, match="serves another model"):
        run(App(does), ["a"])


def test_large_rows_go_in_small_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_calls, "CALL_BYTES", 1000)
    app = App()
    run(app, ["x" * 400] * 10)
    assert {len(call) for call in app.calls} == {2}
