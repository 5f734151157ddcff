"""Blocks of rows of jobs on a scheduler whose device is an argument."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ray_pipelines.errors import RowError
from ray_pipelines.serve import blocks as module
from ray_pipelines.serve.blocks import Blocks
from ray_pipelines.serve.config import ServeConfig
from ray_pipelines.serve.scheduler import Scheduler
from tests.unit.serve.test_scheduler import Device, ask, chunks, items, started


class Chunked(Device):
    """A device whose rows `name*n` have n chunks, made one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.num_made = 0

    def explode(self, item: Any) -> Iterator[Any]:
        name, _, number = item.partition("*")
        for index in range(int(number or 1)):
            self.num_made += 1
            if name == "broken" and index == 70:
                yield RowError("preprocess", "MediaError", "cut off")
                return
            yield from chunks(f"{name}{index}.")


def run(device: Any, main: Callable[[Scheduler], Any]) -> Any:
    async def with_scheduler() -> Any:
        scheduler = Scheduler(device, ServeConfig())
        try:
            return await main(scheduler)
        finally:
            device.gate.set()
            scheduler.close()

    return asyncio.run(with_scheduler())


def test_a_row_of_very_many_chunks_is_made_a_little_ahead_of_the_device() -> None:
    device = Chunked()
    device.hold()

    async def main(scheduler: Scheduler) -> Any:
        block = asyncio.create_task(Blocks(scheduler, block_s=600).run(device, items(["a", "long*5000", "b"])))  # type: ignore
        await started(device)
        while scheduler.queue_depth("batch") < module.CHUNKS_AHEAD - device.max_size:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        num_ahead = device.num_made
        device.gate.set()
        return num_ahead, await block

    num_ahead, (results, counters) = run(device, main)
    assert num_ahead <= module.CHUNKS_AHEAD + 2 * module.CHUNKS_AT_ONCE
    assert results[0] == "A0." and results[2] == "B0."
    assert results[1] == "".join(f"LONG{index}." for index in range(5000))
    assert counters.preprocess_s > 0


def test_a_row_whose_later_chunks_cannot_be_made_fails_alone() -> None:
    device = Chunked()
    results, _ = run(device, lambda scheduler: Blocks(scheduler).run(device, items(["broken*90", "b"])))
    assert (results[0].type, results[1]) == ("MediaError", "B0.")


def test_rows_under_suspicion_have_the_device_to_themselves_but_for_requests() -> None:
    device = Device()

    async def main(scheduler: Scheduler) -> list[Any]:
        blocks = Blocks(scheduler)
        device.hold()
        first = asyncio.create_task(blocks.run(device, items(["a"] * 3)))  # type: ignore[arg-type]
        await started(device)
        alone = asyncio.create_task(blocks.run(device, items(["suspect"]), is_alone=True))  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        last = asyncio.create_task(blocks.run(device, items(["z"])))  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        assert blocks.num_rows == 5
        device.gate.set()
        made = await asyncio.gather(first, alone, last, ask(scheduler, device, "online"))
        assert blocks.num_rows == 0
        return [results for results, _ in made[:3]]

    assert run(device, main) == [{0: "A", 1: "A", 2: "A"}, {0: "SUSPECT"}, {0: "Z"}]
    order = [batch for batch in device.batches if batch != ["online"]]
    assert order.index(["suspect"]) == len(order) - 2 and order[-1] == ["z"]


def test_rows_that_draw_random_numbers_are_made_in_the_thread_that_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    device = Device()
    device.steps.is_random = True
    threads = []

    def preprocess(item: Any) -> Any:
        threads.append(threading.current_thread().name)
        return chunks(item)

    monkeypatch.setattr(device, "preprocess", preprocess)
    results, _ = run(device, lambda scheduler: Blocks(scheduler).run(device, items(["a", "bad", "c"])))
    assert (results[0], results[2]) == ("A", "C") and results[1].type == "RuntimeError"
    assert set(threads) == {"device"}


def test_rows_of_a_call_that_is_given_up_never_reach_the_device() -> None:
    device = Device()

    async def main(scheduler: Scheduler) -> None:
        blocks = Blocks(scheduler)
        device.hold()
        first = asyncio.create_task(ask(scheduler, device, "online"))
        await started(device)
        gone = asyncio.create_task(blocks.run(device, items(["gone"] * 3)))  # type: ignore[arg-type]
        while scheduler.queue_depth("batch") < 3:
            await asyncio.sleep(0.001)
        gone.cancel()
        await asyncio.wait([gone])
        device.gate.set()
        await first
        results, _ = await blocks.run(device, items(["next"]))  # type: ignore[arg-type]
        assert results == {0: "NEXT"} and blocks.num_rows == 0

    run(device, main)
    assert not any("gone" in batch for batch in device.batches)
