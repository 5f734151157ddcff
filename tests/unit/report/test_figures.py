"""What a run says of itself: counters that add up, and the setting to change next."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ray_pipelines.data.counting import COUNTERS_COLUMN, add_counters, counters_of
from ray_pipelines.engine.counters import Counters
from ray_pipelines.report.figures import Figures

BUSY = Counters(num_forwards=10, num_chunks=80, cost=900, padded_cost=1000, forward_s=9.0, worker_s=9.5, idle_s=0.5)


def test_counters_come_through_cutting_and_joining_of_tables() -> None:
    tables = [add_counters(pa.table({"a": list(range(4))}), Counters(read_s=1.0, cost=n)) for n in (1, 2)]
    joined = add_counters(pa.concat_tables(tables), Counters(forward_s=2.0, budget=64))
    assert joined[COUNTERS_COLUMN].null_count == 7
    parts = [counters_of(joined.slice(0, 3)), counters_of(joined.slice(3))]
    total = Counters.sum(parts)
    assert (total.read_s, total.cost, total.forward_s, total.budget) == (2.0, 3, 2.0, 64)


def test_names_that_were_left_out_add_up_and_are_bounded_in_number() -> None:
    total = Counters.sum(Counters(left_out={f"own {n}": 1, **({"same": 1} if n >= 500 else {})}) for n in range(1500))
    assert total.left_out["same"] == 1000
    assert len(total.left_out) == 100
    assert next(iter(total.left_out)) == "same"
    assert total.copy().since(Counters()).left_out == total.left_out
    assert total.of_forwards().left_out == {}


def test_what_was_counted_since_a_copy_leaves_out_what_came_before() -> None:
    counters = BUSY.copy()
    counters.num_forwards += 3
    counters.budget = 512
    later = counters.since(BUSY)
    assert (later.num_forwards, later.cost, later.budget) == (3, 0, 512)


def test_padding_and_shares_are_parts_of_their_whole() -> None:
    figures = Figures.of(BUSY, rows_per_s=8.0)
    assert figures.padding == pytest.approx(0.1)
    assert figures.device_busy == pytest.approx(0.9)
    assert sum(figures.step_shares.values()) == pytest.approx(1.0)
    assert Figures.of(Counters(), 0.0).advice.startswith("Nothing was measured")


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"dtype": "float32", "cheaper": "model.dtype: bfloat16"}, "model.dtype"),
        ({"dtype": "float32", "cheaper": "optimize.int8: true"}, "optimize.int8"),
        ({"dtype": "bfloat16", "cheaper": "model.dtype: bfloat16"}, "workers.concurrency"),
        ({"padded_cost": 1800}, "batch.window_rows"),
        ({"num_out_of_memory": 9}, "batch.budget"),
        ({"num_extra_forwards": 9}, "batch.max_size"),
        ({"idle_s": 9.0}, "read.rows_per_block"),
        ({"device": "cuda", "preprocess_s": 20.0}, "workers.stages"),
        ({"device": "cuda", "write_s": 20.0, "worker_s": 40.0}, "workers.num_cpus"),
        (
            {"write_s": 20.0, "worker_s": 40.0},
            "workers.concurrency: more workers on more machines; write takes the most",
        ),
    ],
)
def test_advice_names_the_setting_that_costs_most(changes: dict[str, object], setting: str) -> None:
    counters = Counters(**{**vars(BUSY), "device": "cpu", **changes})  # type: ignore[arg-type]
    assert Figures.of(counters, rows_per_s=8.0).advice.startswith(setting)
