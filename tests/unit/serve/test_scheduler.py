from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ray_pipelines.engine.counters import Counters
from ray_pipelines.errors import RowError
from ray_pipelines.serve import lanes as module
from ray_pipelines.serve import slices
from ray_pipelines.serve.blocks import Blocks
from ray_pipelines.serve.config import ServeConfig
from ray_pipelines.serve.refusals import Refused
from ray_pipelines.serve.scheduler import Scheduler
from ray_pipelines.serve.slices import SliceSize
from ray_pipelines.serve.stopping import Abandoned


class Device:
    """A runner whose forwards wait until they are let go, and note what they were given."""

    def __init__(self, max_size: int = 32) -> None:
        self.steps = SimpleNamespace(
            is_random=False, group_size=1, extra_cost=0, pipe=SimpleNamespace(model=torch.nn.Identity())
        )
        self.max_size = max_size
        self.counters = Counters()
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()

    def preprocess(self, item: Any) -> Any:
        return item if isinstance(item, RowError) else chunks(item)

    def explode(self, item: Any) -> Iterator[Any]:
        return iter([item] if isinstance(item, RowError) else chunks(item))

    def outputs(self, items: Any) -> Iterator[Any]:
        texts = [chunk["name"] for (chunk,) in items]
        self.batches.append(texts)
        self.started.set()
        assert self.gate.wait(10)
        for text in texts:
            yield RowError("forward", "RuntimeError", "secret") if "bad" in text else [text.upper()]

    def postprocess(self, outputs: Any) -> Any:
        return outputs if isinstance(outputs, RowError) else "".join(outputs)

    def batch_size(self, cost: int) -> int:
        return min(8, self.max_size)

    def hold(self) -> None:
        """Keeps the device busy from the next forward on."""
        self.gate.clear()
        self.started.clear()


def chunks(text: str, cost: int = 4) -> list[dict[str, Any]]:
    return [{"name": text, "input_ids": torch.zeros(1, cost, dtype=torch.int64)}]


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def make(device: Device) -> Iterator[Callable[..., Scheduler]]:
    made: list[Scheduler] = []

    def scheduler(**settings: Any) -> Scheduler:
        made.append(Scheduler(device, ServeConfig(**settings)))  # type: ignore[arg-type]
        return made[-1]

    yield scheduler
    device.gate.set()
    for one in made:
        one.close()


async def ask(scheduler: Scheduler, device: Device, text: str, cost: int = 4) -> Any:
    return await scheduler.run(device, lambda: chunks(text, cost))  # type: ignore[arg-type]


async def started(device: Device) -> None:
    await asyncio.to_thread(device.started.wait, 10)


async def run_block(scheduler: Scheduler, device: Any, block: Sequence[Callable[[], Any]], **how: Any) -> list[Any]:
    results, _ = await Blocks(scheduler).run(device, block, **how)
    return [results[place] for place in range(len(block))]


def items(texts: Sequence[str]) -> list[Callable[[], Any]]:
    return [lambda text=text: text for text in texts]  # type: ignore[misc]


def test_what_waits_while_the_device_is_busy_shares_the_next_forward(device: Device, make: Any) -> None:
    async def main() -> None:
        scheduler = make()
        device.hold()
        first = asyncio.create_task(ask(scheduler, device, "a"))
        await started(device)
        others = [asyncio.create_task(ask(scheduler, device, text)) for text in "bcd"]
        while scheduler.queue_depth("online") < 3:
            await asyncio.sleep(0.001)
        device.gate.set()
        assert await asyncio.gather(first, *others) == ["A", "B", "C", "D"]

    asyncio.run(main())
    assert device.batches == [["a"], ["b", "c", "d"]]


def test_long_and_short_requests_do_not_share_a_forward(device: Device, make: Any) -> None:
    async def main() -> None:
        scheduler = make()
        device.hold()
        first = asyncio.create_task(ask(scheduler, device, "a"))
        await started(device)
        others = [
            asyncio.create_task(ask(scheduler, device, t, cost)) for t, cost in (("b", 4), ("long", 400), ("c", 5))
        ]
        while scheduler.queue_depth("online") < 3:
            await asyncio.sleep(0.001)
        device.gate.set()
        await asyncio.gather(first, *others)

    asyncio.run(main())
    assert device.batches == [["a"], ["b", "c"], ["long"]]


def test_a_request_that_fails_fails_alone_and_says_nothing_of_the_exception(device: Device, make: Any) -> None:
    async def main() -> list[Any]:
        scheduler = make()
        device.hold()
        first = asyncio.create_task(ask(scheduler, device, "a"))
        await started(device)
        others = [asyncio.create_task(ask(scheduler, device, text)) for text in ("b", "bad", "c")]
        while scheduler.queue_depth("online") < 3:
            await asyncio.sleep(0.001)
        device.gate.set()
        return await asyncio.gather(first, *others, return_exceptions=True)

    made = asyncio.run(main())
    assert [made[index] for index in (0, 1, 3)] == ["A", "B", "C"]
    assert isinstance(made[2], Refused) and made[2].status == 500
    assert "secret" not in made[2].message


def test_requests_go_before_rows_of_a_batch_job(device: Device, make: Any) -> None:
    device.max_size = 2

    async def main() -> list[Any]:
        scheduler = make()
        device.hold()
        block = asyncio.create_task(run_block(scheduler, device, items([f"r{i}" for i in range(6)])))
        await started(device)
        request = asyncio.create_task(ask(scheduler, device, "online"))
        while not scheduler.queue_depth("online"):
            await asyncio.sleep(0.001)
        device.gate.set()
        assert await request == "ONLINE"
        return await block

    assert asyncio.run(main()) == [f"R{i}" for i in range(6)]
    assert device.batches[1] == ["online"]


def test_batch_rows_are_never_starved(device: Device, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STARVING_S", 0.05)

    async def main() -> None:
        scheduler = make()
        done = asyncio.Event()

        async def keep_asking() -> None:
            while not done.is_set():
                await ask(scheduler, device, "online")

        askers = [asyncio.create_task(keep_asking()) for _ in range(4)]
        rows = await asyncio.wait_for(run_block(scheduler, device, items(["r1", "r2"])), 10)
        done.set()
        await asyncio.gather(*askers)
        assert rows == ["R1", "R2"]

    asyncio.run(main())


def test_requests_go_before_rows_that_draw_random_numbers(device: Device, make: Any) -> None:
    device.steps.is_random = True
    device.hold()

    async def main() -> Any:
        scheduler = make()
        block = asyncio.create_task(run_block(scheduler, device, items([f"r{i}" for i in range(8)])))
        await started(device)
        request = asyncio.create_task(ask(scheduler, device, "online"))
        while not scheduler.queue_depth("online") or scheduler.queue_depth("batch") < 7:
            await asyncio.sleep(0.001)
        device.gate.set()
        return await asyncio.gather(request, block)

    assert asyncio.run(main()) == ["ONLINE", [f"R{i}" for i in range(8)]]
    assert device.batches[:2] == [["r0"], ["online"]]


def test_a_row_with_a_chunk_that_fails_fails_whatever_chunks_share_its_slice(device: Device, make: Any) -> None:
    device.explode = lambda item: iter(chunks("good") + chunks("bad"))  # type: ignore[method-assign]

    async def main() -> list[Any]:
        return await run_block(make(), device, items(["row"]))

    assert asyncio.run(main()) == [RowError("forward", "RuntimeError", "secret")]
    assert device.batches == [["good", "bad"]]


def test_slices_grow_until_they_take_their_time_and_shrink_at_once() -> None:
    size = SliceSize(budget_s=0.02)
    seconds_per_cost, found = 0.001, []
    for _ in range(8):
        num_entries = size.num_entries(cost=4)
        found.append(num_entries)
        size.note(4 * num_entries, 0.004 + 4 * num_entries * seconds_per_cost)
    assert found[:3] == [1, 2, 3]
    assert found[-1] == 4  # 4 ms for any forward and 16 for four rows
    size.note(16, 0.2)
    assert size.num_entries(cost=4) == 1


def test_slices_may_take_as_long_as_requests_but_no_longer_than_a_tenth_of_a_second() -> None:
    size = SliceSize(budget_s=0.02)
    size.note_request(0.01)
    assert size.budget_s == 0.02
    for _ in range(30):
        size.note_request(0.04)
    assert size.budget_s == pytest.approx(0.06, rel=0.01)
    size.note_request(8.0)
    assert size.budget_s == 0.1


def test_slices_are_short_while_somebody_is_online_and_full_when_nobody_is(
    device: Device, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "OF_A_REQUEST", 0)

    async def main() -> tuple[int, int]:
        scheduler = make(slice_budget_ms=1e-6)
        await run_block(scheduler, device, items(["row"] * 64))
        alone = max(len(batch) for batch in device.batches)
        await ask(scheduler, device, "online")
        device.batches.clear()
        await run_block(scheduler, device, items(["row"] * 64))
        return alone, max(len(batch) for batch in device.batches)

    alone, beside = asyncio.run(main())
    assert alone >= 8
    assert beside == 1


def test_requests_that_nobody_waits_for_never_reach_the_device(device: Device, make: Any) -> None:
    async def main() -> None:
        scheduler = make()
        device.hold()
        first = asyncio.create_task(ask(scheduler, device, "a"))
        await started(device)
        gone = asyncio.create_task(ask(scheduler, device, "gone"))
        while not scheduler.queue_depth("online"):
            await asyncio.sleep(0.001)
        gone.cancel()
        await asyncio.wait([gone])
        device.gate.set()
        await first
        await ask(scheduler, device, "b")
        assert scheduler.stats.num_dropped == 1

    asyncio.run(main())
    assert ["gone"] not in device.batches


def test_late_requests_get_504_and_too_many_429(device: Device, make: Any) -> None:
    async def main() -> None:
        scheduler = make(timeout_s=0.05, max_queue_requests=2)
        device.hold()
        late = [asyncio.create_task(ask(scheduler, device, text)) for text in "ab"]
        await started(device)
        with pytest.raises(Refused) as busy:
            await ask(scheduler, device, "c")
        assert busy.value.status == 429 and busy.value.headers()["retry-after"]
        made = await asyncio.gather(*late, return_exceptions=True)
        assert [error.status for error in made if isinstance(error, Refused)] == [504, 504]

    asyncio.run(main())


def test_a_draining_replica_finishes_its_slice_and_hands_the_rest_back(device: Device, make: Any) -> None:
    device.max_size = 2

    async def main() -> tuple[Any, int]:
        scheduler = make()
        device.hold()
        block = asyncio.create_task(Blocks(scheduler).run(device, items([f"r{i}" for i in range(200)])))  # type: ignore
        await started(device)
        scheduler.is_draining = True
        device.gate.set()
        results, _ = await block
        return results, len(await run_block(scheduler, device, []))

    results, none = asyncio.run(main())
    assert 1 <= len(results) < 200 and none == 0
    assert all(result == f"R{place}" for place, result in results.items())


def test_a_block_is_handed_back_after_its_time_but_for_one_row_at_least(device: Device, make: Any) -> None:
    async def main() -> Any:
        results, _ = await Blocks(make(), block_s=0).run(device, items(["r"] * 200))  # type: ignore[arg-type]
        return results

    assert 1 <= len(asyncio.run(main())) < 200


def test_rows_that_failed_before_stay_errors(device: Device, make: Any) -> None:
    error = RowError("read", "BrokenLine", "line 3")

    async def main() -> list[Any]:
        return await run_block(make(), device, [lambda: error, lambda: "fine"])

    assert asyncio.run(main()) == [error, "FINE"]


def test_generations_that_are_never_finished_still_say_how_long_they_take(
    device: Device, make: Callable[..., Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = make(timeout_s=0.2)

    def abandoned(items: Any) -> Iterator[Any]:
        list(items)
        time.sleep(0.4)
        raise Abandoned
        yield

    monkeypatch.setattr(device, "outputs", abandoned)

    async def ask() -> None:
        with pytest.raises(Refused) as refused:
            await scheduler.run(device, lambda: chunks("late"))  # type: ignore[arg-type]
        assert refused.value.status == 504

    asyncio.run(ask())
    time.sleep(0.4)
    assert scheduler._device._seconds_per_cost == pytest.approx(0.1, rel=0.5)
    assert scheduler.stats.num_dropped == 0 and scheduler._device.busy_s == 0


def test_a_request_is_late_also_while_its_input_is_being_prepared(
    device: Device, make: Callable[..., Scheduler]
) -> None:
    scheduler = make(timeout_s=0.1)

    def slow() -> list[dict[str, Any]]:
        time.sleep(0.3)
        return chunks("slow")

    async def main() -> Any:
        with pytest.raises(Refused) as refused:
            await scheduler.run(device, slow)  # type: ignore[arg-type]
        assert refused.value.status == 504 and scheduler.num_waiting == 0
        await asyncio.sleep(0.4)
        return await ask(scheduler, device, "next")

    assert asyncio.run(main()) == "NEXT"
    assert device.batches == [["next"]]


def test_chunks_that_the_device_cannot_take_fail_their_request_alone(
    device: Device, make: Callable[..., Scheduler]
) -> None:
    async def main() -> Any:
        scheduler = make()
        with pytest.raises(Refused) as refused:
            await scheduler.run(device, lambda: iter(chunks("no list")))  # type: ignore[arg-type]
        assert refused.value.status == 422
        return await ask(scheduler, device, "next")

    assert asyncio.run(main()) == "NEXT"


def test_outputs_are_freed_with_their_answer(device: Device, make: Callable[..., Scheduler]) -> None:
    freed = threading.Event()

    class Output(str):
        def __del__(self) -> None:
            freed.set()

    def outputs(items: Any) -> Iterator[Any]:
        for _ in list(items):
            yield [Output("X")]

    device.outputs = outputs  # type: ignore[method-assign]

    async def main() -> str:
        scheduler = make()
        gc.disable()
        try:
            answer: str = await ask(scheduler, device, "a")
            await ask(scheduler, device, "b")
            assert freed.wait(5)
        finally:
            gc.enable()
        return answer

    assert asyncio.run(main()) == "X"
