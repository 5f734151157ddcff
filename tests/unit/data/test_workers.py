"""Every case as a Ray worker sees it: inputs as Arrow columns, results and errors as Arrow columns."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import ray_pipelines as rp
from ray_pipelines import tasks
from ray_pipelines.arrow import ERROR_TYPE, results_to_arrow
from ray_pipelines.data.workers import PipelineWorker, WorkerSetup
from ray_pipelines.engine.hub import resolve_model
from tests.cases import CASES, Case
from tests.closeness import assert_close

Model = Callable[[str], str]


def encoded(value: Any) -> Any:
    """The value as a column holds it: pictures as bytes, arrays as lists, pairs of a word and its box as structs."""
    if isinstance(value, Image.Image):
        buffer = io.BytesIO()
        value.save(buffer, "TIFF" if value.mode in ("CMYK", "I;16", "F") else "PNG")
        return buffer.getvalue()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str) and not isinstance(value[1], str):
        return {"word": value[0], "box": list(value[1])}
    if isinstance(value, Mapping):
        return {key: encoded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encoded(item) for item in value]
    return value


def table_of(task: tasks.Task, items: list[Any]) -> pa.Table:
    """One column per input that some item has."""
    first = task.inputs[0].name
    rows = [item if isinstance(item, dict) and first in item else {first: item} for item in items]
    names = [field.name for field in task.inputs if any(field.name in row for row in rows)]
    return pa.table({f"my_{name}": pa.array([encoded(row.get(name)) for row in rows]) for name in names})


def setup_of(spec: rp.PipelineSpec, columns: list[str]) -> WorkerSetup:
    task = spec.task
    assert task.result_type is not None
    return WorkerSetup(
        task_name=spec.task_name,
        has_own_pipeline=False,
        model=resolve_model(task.name, spec.model),
        instances=None,
        parameters=spec.parameters,
        inputs={column.removeprefix("my_"): column for column in columns},
        constants={},
        output_column="prediction",
        result_type=task.result_type(tasks.validate_parameters(task, spec.parameters)),
        batch=spec.batch,
        limits=spec.limits,
        seed=0,
        device="cpu",
        num_threads=1,
        num_neighbours=1,
    )


def tables_of(case: Case) -> list[pa.Table]:
    """The case's items as one table, or as a table each where they do not fit one column (texts and chats, say)."""
    task = tasks.get(case.task)
    try:
        return [table_of(task, case.items())]
    except (pa.ArrowException, AttributeError):
        return [table_of(task, [item]) for item in case.items()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_worker_gives_what_run_gives(case: Case, model: Model) -> None:
    spec = rp.pipeline(case.task, model=model(case.model), device="cpu", **case.parameters)
    predictions: list[Any] = []
    for table in tables_of(case):
        setup = setup_of(spec, table.column_names)
        output = PipelineWorker(setup)(table)
        assert output.column_names == [*table.column_names, "prediction", "error"]
        assert output.schema.field("prediction").type == setup.result_type
        assert output.schema.field("error").type == ERROR_TYPE
        assert [error for error in output["error"].to_pylist() if error] == []
        predictions += output["prediction"].to_pylist()
    expected = results_to_arrow(spec.run(case.items()), setup.result_type)[0]  # type: ignore[arg-type]
    assert_close(predictions, expected.to_pylist(), case.tolerance)
