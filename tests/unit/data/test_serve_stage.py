"""What of a table is sent to a replica, and what is not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ray_pipelines import tasks
from ray_pipelines.config import BatchConfig, MediaLimits, ModelConfig
from ray_pipelines.data.serve_stage import batch_of_table
from ray_pipelines.data.workers import READ_ERROR_COLUMN, ApplicationSetup, WorkerSetup
from ray_pipelines.engine.hub import PinnedModel
from ray_pipelines.errors import RowError


def setup_of(task: str, inputs: dict[str, str], **values: Any) -> WorkerSetup:
    found = tasks.get(task)
    assert found.result_type is not None
    setup = WorkerSetup(
        task_name=task,
        has_own_pipeline=False,
        model=PinnedModel(ModelConfig(), {}),
        instances=None,
        parameters={"top_k": 1},
        inputs=inputs,
        constants={},
        output_column="prediction",
        result_type=found.result_type(found.parameters()),
        batch=BatchConfig(),
        limits=MediaLimits(),
        seed=7,
        device="cpu",
        num_threads=1,
        num_neighbours=1,
        application=ApplicationSetup("app", "identity", 1.0),
    )
    return dataclasses.replace(setup, **values)


def test_columns_are_sent_as_they_are_under_the_names_of_the_inputs() -> None:
    table = pa.table({"review": ["a", None, "c"], "other": [1, 2, 3]})
    batch, rows, failed = batch_of_table(table, setup_of("text-classification", {"text": "review"}))
    assert (rows, failed, batch.values) == ([0, 1, 2], {}, {})
    assert batch.columns.column_names == ["text"] and batch.columns["text"].chunks[0] is not None
    assert [batch.fields(row) for row in range(3)] == [{"text": "a"}, {"text": None}, {"text": "c"}]
    assert (batch.identity, batch.parameters, batch.seed) == ("identity", {"top_k": 1}, 7)


def test_rows_that_could_not_be_read_are_not_sent() -> None:
    error = {"stage": "read", "type": "BrokenLine", "message": "line 2"}
    table = pa.table({"text": ["a", None, "c"], READ_ERROR_COLUMN: [None, error, None]})
    batch, rows, failed = batch_of_table(table, setup_of("text-classification", {"text": "text"}))
    assert rows == [0, 2] and failed == {1: RowError(**error)}
    assert [batch.fields(row)["text"] for row in range(batch.num_rows)] == ["a", "c"]


def test_media_that_rows_name_are_fetched_here_and_bytes_travel_as_a_column(tmp_path: Path) -> None:
    import fsspec

    with fsspec.open("memory://shared/a.png", "wb") as file:
        file.write(b"picture")
    setup = setup_of("image-classification", {"image": "image"})
    named = pa.table({"image": ["memory://shared/a.png", "memory://shared/none.png"]})
    batch, rows, failed = batch_of_table(named, setup)
    assert rows == [0] and failed[1].type == "MediaError"
    assert batch.fields(0) == {"image": b"picture"}
    encoded = pa.table({"image": pa.array([b"one", b"two"], type=pa.binary())})
    batch, _, _ = batch_of_table(encoded, setup)
    assert batch.values == {} and batch.fields(1) == {"image": b"two"}


def test_values_that_arrow_alone_cannot_read_travel_beside_the_columns() -> None:
    from ray.data.extensions import ArrowTensorArray

    arrays = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    table = pa.table({"pixels": ArrowTensorArray.from_numpy(arrays)})
    batch, _, _ = batch_of_table(table, setup_of("image-classification", {"image": "pixels"}))
    assert batch.columns.num_columns == 0 and batch.num_rows == 2
    assert np.array_equal(batch.take([1], is_alone=True).fields(0)["image"], arrays[1])


@pytest.mark.parametrize("own", [None, "boxes"])
def test_what_the_job_prepared_is_sent_where_the_row_has_none(own: str | None) -> None:
    table = pa.table({"image": [b"one", b"two"], "boxes": [None, "mine"], "__prepared": ["made", None]})
    inputs = {"image": "image", **({"question": own} if own else {})}
    setup = setup_of("document-question-answering", inputs, prepared={"question": "__prepared"})
    batch, _, _ = batch_of_table(table, setup)
    sent = [batch.fields(row).get("question") for row in range(2)]
    assert sent == (["made", "mine"] if own else ["made", None])


def test_values_for_all_rows_travel_once() -> None:
    setup = setup_of("zero-shot-classification", {"text": "text"}, constants={"candidate_labels": ["good", "bad"]})
    batch, _, _ = batch_of_table(pa.table({"text": ["a", "b"]}), setup)
    assert batch.constants == {"candidate_labels": ["good", "bad"]} and batch.values == {}
    assert batch.fields(1) == {"candidate_labels": ["good", "bad"], "text": "b"}
