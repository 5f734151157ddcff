"""A limit on what a forward may take on a CPU, for real: PyTorch says that memory is out, and the process lives on."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
import torch

from ray_pipelines.engine.memory import available_bytes, is_out_of_memory, limited_memory
from tests.unit.engine.test_runner import FakeSteps, run

MIB = 1 << 20


def test_too_large_an_allocation_fails_in_the_block_only() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with limited_memory(64 * MIB):
        assert not torch.zeros(8 * MIB, dtype=torch.uint8).any()
        with pytest.raises(RuntimeError) as caught:
            torch.zeros(512 * MIB, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert torch.zeros(512 * MIB, dtype=torch.uint8).numel() == 512 * MIB


def test_no_limit_is_no_limit() -> None:
    with limited_memory(None):
        assert torch.zeros(100 * MIB, dtype=torch.uint8).numel() == 100 * MIB


def test_limit_of_the_process_is_not_raised() -> None:
    code = """
import resource
from ray_pipelines.engine.memory import limited_memory
resource.setrlimit(resource.RLIMIT_DATA, (900 << 20, 1000 << 20))
with limited_memory(10 << 30):
    assert resource.getrlimit(resource.RLIMIT_DATA) == (900 << 20, 1000 << 20)
assert resource.getrlimit(resource.RLIMIT_DATA) == (900 << 20, 1000 << 20)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_free_memory_is_known_and_plausible() -> None:
    free = available_bytes()
    assert free is not None and 0 < free < 1 << 46


class Hungry(FakeSteps):
    """A model on the CPU whose forward takes a mebibyte per token."""

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        torch.zeros(inputs["input_ids"].numel() * MIB, dtype=torch.uint8)
        return super().forward(inputs)


def test_batches_are_halved_to_fit_into_the_limit_and_too_large_rows_are_dead_letters() -> None:
    steps = Hungry()
    results = run(steps, [[10]] * 32 + [[300], [12]], max_size=32, max_memory_bytes=128 * MIB)
    assert results[:32] == [[20.0]] * 32
    assert results[32].type == "RowTooLarge" and results[33] == [24.0]
    sizes = [len(batch) * max(batch) for batch in steps.batches]
    assert max(sizes) <= 128


def test_ten_thousand_batches_leave_no_memory_behind() -> None:
    def resident_bytes() -> int:
        with open("/proc/self/statm") as file:  # noqa: PTH123  # no file of ours
            return int(file.read().split()[1]) * resource.getpagesize()

    steps = FakeSteps(guilty=[7])
    items = [[1 + n % 9] for n in range(2000)]
    for _ in range(2):
        run(steps, items, max_size=2)
    before = resident_bytes()
    for _ in range(8):
        steps.batches.clear()
        run(steps, items, max_size=2)
    assert resident_bytes() - before < 24 * MIB
