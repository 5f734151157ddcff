"""The order of what waits for the CPU thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from ray_pipelines.serve.cpu import CpuThread, Lane, one_at_a_time


class Held:
    """A CPU thread that is kept busy until it is let go, and the names of what it has done since."""

    def __init__(self) -> None:
        self.thread = CpuThread()
        self.gate = threading.Event()
        self.done: list[str] = []

    def ask(self, name: str, lane: Lane = "online") -> asyncio.Task[None]:
        return asyncio.create_task(self.thread.run(lane, lambda: self.done.append(name)))

    async def held(self) -> asyncio.Task[bool]:
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()

        def hold() -> bool:
            loop.call_soon_threadsafe(begun.set)
            return self.gate.wait(10)

        task = asyncio.create_task(self.thread.run("online", hold))
        await begun.wait()
        return task


@pytest.fixture
def cpu() -> Iterator[Held]:
    held = Held()
    yield held
    held.gate.set()
    held.thread.close()


def run(cpu: Held, ask: Callable[[], list[asyncio.Task[None]]]) -> list[str]:
    async def main() -> None:
        first = await cpu.held()
        tasks = ask()
        await asyncio.sleep(0.01)
        cpu.gate.set()
        await asyncio.wait([first, *tasks])

    asyncio.run(main())
    return cpu.done


def test_requests_have_their_turns_however_many_inputs_others_have(cpu: Held) -> None:
    def ask() -> list[asyncio.Task[None]]:
        with one_at_a_time():
            many = [cpu.ask(f"a{number}") for number in range(4)]
        with one_at_a_time():
            two = [cpu.ask(f"b{number}") for number in range(2)]
        return [*many, *two, cpu.ask("c"), cpu.ask("d")]

    assert run(cpu, ask) == ["a0", "b0", "c", "d", "a1", "b1", "a2", "a3"]


def test_batch_jobs_give_way_to_requests(cpu: Held) -> None:
    assert run(cpu, lambda: [cpu.ask("job", "batch"), cpu.ask("request")]) == ["request", "job"]


def test_what_nobody_waits_for_any_more_is_not_begun(cpu: Held) -> None:
    async def main() -> None:
        first = await cpu.held()
        with one_at_a_time():
            gone = [cpu.ask("gone") for _ in range(3)]
            last = cpu.ask("last")
        await asyncio.sleep(0.01)
        for one in gone:
            one.cancel()
        await asyncio.sleep(0.01)
        cpu.gate.set()
        await asyncio.wait([first, *gone, last])

    asyncio.run(main())
    assert cpu.done == ["last"]
