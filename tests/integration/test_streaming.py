"""Results of a large block come while the rest of it is worked on, in the order of its rows."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest

import ray_pipelines as rp

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_results_of_one_large_block_come_in_parts_and_in_order(model: Callable[[str], str]) -> None:
    import ray

    spec = rp.pipeline("text-classification", model=model("bert-classifier"), num_cpus=1, batch={"window_rows": 20})
    texts = [f"row {n}" for n in range(100)]
    dataset = spec(ray.data.from_arrow(pa.table({"n": range(100), "text": texts})))
    blocks = [ray.get(ref) for bundle in dataset.iter_internal_ref_bundles() for ref in bundle.block_refs]
    assert [block.num_rows for block in blocks] == [20] * 5
    assert [n for block in blocks for n in block["n"].to_pylist()] == list(range(100))
