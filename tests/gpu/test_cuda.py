"""The engine on a real GPU; run by `make test-gpu`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import ray_pipelines as rp
from tests.cases.media import TEXTS, images
from tests.closeness import assert_close

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
Model = Callable[[str], str]


@pytest.mark.parametrize(
    ("task", "name"), [("text-classification", "bert-classifier"), ("image-classification", "vit-classifier")]
)
def test_results_are_those_of_the_cpu(task: str, name: str, model: Model) -> None:
    items = TEXTS if task.startswith("text") else images()
    on_cpu = rp.pipeline(task, model=model(name), device="cpu").run(items)
    on_gpu = rp.pipeline(task, model=model(name), device="cuda:0").run(items)
    assert_close(on_gpu, on_cpu, 1e-3)


def test_out_of_memory_halves_the_batch(model: Model) -> None:
    texts = ["word " * 20 for _ in range(4096)]
    spec = rp.pipeline("fill-mask", model=model("bert-mlm"), device="cuda:0", batch={"max_size": 4096}, top_k=1)
    masked = [f"{text[:40]} [MASK]" for text in texts]
    expected = spec.run(masked[:1])
    runner = spec._runner()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(48 * 2**20 / total)
    try:
        results = spec.run(masked)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert runner.counters.num_out_of_memory > 0
    assert_close(results[-1:], expected, 1e-3)
