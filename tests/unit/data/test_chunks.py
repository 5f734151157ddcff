"""Rows to chunks and back: whatever Ray does to the tables between, rows are put together as one process would."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_pipelines.arrow import errors_to_arrow
from ray_pipelines.config import BatchConfig, MediaLimits, ModelConfig
from ray_pipelines.data import chunking
from ray_pipelines.data.chunks import ROW_ID_COLUMN, explode_table, forward_part, implode_table
from ray_pipelines.data.watchdog import Watchdog
from ray_pipelines.data.workers import READ_ERROR_COLUMN, WorkerSetup
from ray_pipelines.engine.hub import PinnedModel
from ray_pipelines.engine.runner import Runner
from ray_pipelines.errors import RowError
from tests.unit.engine.test_runner import FakeSteps


class Steps(FakeSteps):
    """Items are the values of a column; a null is the error of a row that could not be decoded."""

    task = SimpleNamespace(result_type=pa.list_(pa.float64()), batched=True, inputs=())

    def item_of_fields(self, fields: dict[str, Any]) -> Any:
        numbers = fields["numbers"]
        return RowError("decode", "InvalidInput", "null") if numbers is None else [n or "bad" for n in numbers]


@dataclass(frozen=True)
class Setup(WorkerSetup):
    """A real one, whose runner is there already."""

    runner: Runner | None = None

    def load_without_weights(self) -> Runner:
        assert self.runner is not None
        return self.runner


def setup_of(runner: Runner) -> Setup:
    return Setup(
        task_name="numbers",
        has_own_pipeline=False,
        model=PinnedModel(ModelConfig(), {}),
        instances=None,
        parameters={},
        inputs={"numbers": "numbers"},
        constants={},
        output_column="prediction",
        result_type=pa.list_(pa.float64()),
        batch=BatchConfig(),
        limits=MediaLimits(),
        seed=0,
        device=None,
        num_threads=1,
        num_neighbours=1,
        is_counted=True,
        runner=runner,
    )


def watched(steps: Steps, **batching: Any) -> Runner:
    runner = Runner(steps, BatchConfig(**batching))  # type: ignore[arg-type]
    runner.watch = Watchdog(timeout_s=None)
    return runner


def table_of(items: Sequence[Any]) -> pa.Table:
    return pa.table(
        {
            "n": pa.array(range(len(items)), type=pa.int64()),
            "name": [f"row {n}" for n in range(len(items))],
            "numbers": pa.array(items, type=pa.list_(pa.int64())),
            ROW_ID_COLUMN: pa.array([(n << 33) + n for n in range(len(items))], type=pa.int64()),
        }
    )


def cut(table: pa.Table, sizes: random.Random, largest: int) -> list[pa.Table]:
    """The table in blocks of 1 to `largest` rows."""
    blocks, start = [], 0
    while start < table.num_rows:
        size = sizes.randint(1, largest)
        blocks.append(table.slice(start, size))
        start += size
    return blocks


def rows_of(outputs: Sequence[pa.Table]) -> list[dict[str, Any]]:
    rows = [row for output in outputs for row in output.to_pylist()]
    return sorted(rows, key=lambda row: row["n"])


NUMBERS = st.lists(st.integers(0, 12), max_size=7) | st.none()
"""0 is a chunk whose preprocessing fails; 5 and 7 are chunks whose forward fails."""


@settings(deadline=None, max_examples=150)
@given(
    items=st.lists(NUMBERS, min_size=1, max_size=20),
    part_bytes=st.integers(1, 2000),
    largest=st.integers(1, 9),
    max_size=st.integers(1, 9),
    budget=st.none() | st.integers(1, 60),
    num_partitions=st.integers(1, 4),
    order=st.randoms(use_true_random=False),
)
def test_any_cuts_batches_and_orders_give_what_one_process_gives(
    items: list[Any],
    part_bytes: int,
    largest: int,
    max_size: int,
    budget: int | None,
    num_partitions: int,
    order: random.Random,
) -> None:
    expected = list(
        Runner(Steps(guilty=[5, 7]), BatchConfig(window_rows=1)).run(  # type: ignore[arg-type]
            Steps().item_of_fields({"numbers": item}) for item in items
        )
    )
    runner = watched(Steps(guilty=[5, 7]), max_size=max_size, budget=budget)
    setup = setup_of(runner)
    parts = [part for block in cut(table_of(items), order, largest) for part in explode_table(block, setup, part_bytes)]
    blocks = [block for part in parts for block in cut(part, order, largest)]
    order.shuffle(blocks)
    forwarded = pa.concat_tables([forward_part(block, runner) for block in blocks])
    forwarded = forwarded.take(order.sample(range(forwarded.num_rows), forwarded.num_rows))
    partitions = forwarded[ROW_ID_COLUMN].to_numpy() % num_partitions
    outputs = [
        implode_table(forwarded.filter(pa.array(partitions == partition)), setup) for partition in range(num_partitions)
    ]
    rows = rows_of(outputs)
    assert [row["n"] for row in rows] == list(range(len(items)))
    assert [row["name"] for row in rows] == [f"row {n}" for n in range(len(items))]
    assert [row["numbers"] for row in rows] == items
    assert [(row["error"] and RowError(**row["error"])) or row["prediction"] for row in rows] == expected


def test_carriers_take_no_room_on_chunks_and_media_that_is_not_kept_does_not_travel() -> None:
    runner = watched(Steps())
    setup = dataclasses.replace(setup_of(runner), dropped_columns=("numbers",))
    table = table_of([[1, 2, 3], []]).append_column("picture", pa.array([np.zeros(1000).tobytes()] * 2))
    (part,) = explode_table(table, setup)
    carried = part["__carried"].combine_chunks()
    assert carried.value_lengths().to_pylist() == [0, 0, 0, 1, 1]
    assert len(carried.flatten()) == 2
    assert [field.name for field in carried.type.value_type] == ["n", "name", "picture"]
    assert "numbers" not in implode_table(forward_part(part, runner), setup).column_names


def test_read_errors_pass_and_are_not_exploded() -> None:
    runner = watched(Steps())
    setup = setup_of(runner)
    error = RowError("read", "InvalidInput", "not JSON")
    table = table_of([[1], [2]]).append_column(READ_ERROR_COLUMN, errors_to_arrow([error, None]))
    parts = pa.concat_tables(explode_table(table, setup))
    assert parts.num_rows == 3
    rows = rows_of([implode_table(forward_part(parts, runner), setup)])
    assert [row["error"] for row in rows] == [error.as_dict(), None]
    assert READ_ERROR_COLUMN not in rows[0]


@pytest.mark.parametrize("change", ["lost", "twice", "no carrier", "carrier twice"])
def test_torn_row_is_never_put_together(change: str) -> None:
    runner = watched(Steps())
    setup = setup_of(runner)
    (part,) = explode_table(table_of([[1, 2, 3], [4, 5]]), setup)
    forwarded = forward_part(part, runner)
    taken = {"lost": [0, 2, 3, 4, 5, 6], "twice": [0, 0, 1, 2, 3, 4, 5, 6], "no carrier": [0, 1, 2, 4, 5, 6]}
    indices = taken.get(change, [0, 1, 2, 3, 3, 4, 5, 6])
    with pytest.raises(AssertionError, match="a row is torn"):
        implode_table(forwarded.take(indices), setup)


def test_a_row_of_very_many_chunks_is_held_in_parts() -> None:
    made = 0

    class Counting(Steps):
        def preprocess(self, item: Any) -> Any:
            nonlocal made
            for chunk in super().preprocess(item):
                made += 1
                yield chunk

    parts = explode_table(table_of([[1] * 1000]), setup_of(watched(Counting())), part_bytes=160)
    assert next(parts).num_rows == 10
    assert made == 10


def test_a_sample_counts_a_long_row_so_far_and_those_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps()
    monkeypatch.setattr(steps, "problem_with_stages", None, raising=False)
    monkeypatch.setattr(chunking, "SAMPLE_BYTES", 8 * 400)
    setup = setup_of(watched(steps))
    made = chunking.sample_table(table_of([[1] * 500, [1], [1, 1]]), setup).to_pylist()
    long, *short = [row["num_chunks"] for row in made]
    assert short == [1, 2]
    assert 5 < long < 500, "no further than its share"
    samples = [chunking.RowSample(**row) for row in made]
    assert chunking.choose(samples, num_workers=2, num_rows=3)[0] == "groupby"


def test_a_sample_is_of_several_rows_however_long_the_first_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps()
    monkeypatch.setattr(steps, "problem_with_stages", None, raising=False)
    monkeypatch.setattr(chunking, "SAMPLE_S", 0)
    made = chunking.sample_table(table_of([[1] * 500] + [[1]] * 20), setup_of(watched(steps)))
    assert made["num_chunks"].to_pylist() == [1] * 8, "one as a row that has had its time, and rows enough to compare"
