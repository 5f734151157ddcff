"""What every task promises, checked on every case of `tests/cases`."""

from __future__ import annotations

import functools
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import transformers

import ray_pipelines as rp
from ray_pipelines import tasks
from ray_pipelines.arrow import results_to_arrow
from tests.cases import CASES, Case
from tests.closeness import assert_close

Model = Callable[[str], str]
BATCHES = ({"max_size": 1}, {"max_size": 3, "window_rows": 4}, {"max_size": 64, "budget": 5000})
BAD_ITEM = object()

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def spec_of(case: Case, model: Model, **settings: Any) -> rp.PipelineSpec:
    return rp.pipeline(case.task, model=model(case.model), device="cpu", **settings, **case.parameters)


@functools.cache
def reference_pipeline(task: str, folder: str) -> transformers.Pipeline:
    return transformers.pipeline(task, model=folder, device="cpu")


def expected_results(case: Case, model: Model) -> list[Any]:
    folder = model(case.model)
    if case.expected is not None:
        return [case.expected(Path(folder), item) for item in case.items()]
    task = tasks.get(case.task)
    parameters = tasks.validate_parameters(task, case.parameters)
    arguments = task.pipeline_parameters(parameters)
    if case.reference_parameters is not None:
        arguments = dict(case.reference_parameters)
    pipe = reference_pipeline(case.task, folder)
    return [task.to_result(pipe(item, **arguments), parameters) for item in case.items()]


@each_case
@pytest.mark.parametrize("batch", BATCHES, ids=lambda batch: f"size{batch['max_size']}")
def test_results_equal_transformers_at_batch_size_1(case: Case, batch: dict[str, int], model: Model) -> None:
    results = spec_of(case, model, batch=batch).run(case.items())
    assert_close(results, expected_results(case, model), case.tolerance)


@each_case
def test_order_of_rows_changes_nothing(case: Case, model: Model) -> None:
    items = case.items()
    order = list(range(len(items)))
    random.Random(0).shuffle(order)
    spec = spec_of(case, model)
    shuffled = spec.run([items[index] for index in order])
    straight = spec.run(case.items())
    assert_close([shuffled[order.index(index)] for index in range(len(items))], straight, case.tolerance)


@each_case
def test_parameters_that_come_later_give_what_those_give_that_it_is_loaded_with(case: Case, model: Model) -> None:
    loaded = rp.pipeline(case.task, model=model(case.model), device="cpu")._runner()
    later = loaded.with_parameters(tasks.validate_parameters(tasks.get(case.task), case.parameters))
    results = list(later.run(later.steps.item_of_input(item) for item in case.items()))
    assert_close(results, spec_of(case, model).run(case.items()), case.tolerance)


@each_case
def test_one_bad_item_fails_alone(case: Case, model: Model) -> None:
    items = case.items()
    spec = spec_of(case, model)
    good = spec.run(case.items())
    results = spec.run([*items[:1], case.bad_item, *items[1:]])
    assert isinstance(results[1], rp.RowError), results[1]
    assert results[1].message
    assert_close(results[:1] + results[2:], good, case.tolerance)


@each_case
def test_results_fit_the_arrow_type_and_survive_it(case: Case, model: Model) -> None:
    spec = spec_of(case, model)
    task = spec.task
    assert task.result_type is not None
    result_type = task.result_type(tasks.validate_parameters(task, case.parameters))
    results = spec.run(case.items())
    column, errors = results_to_arrow([*results, rp.RowError("forward", "E", "m")], result_type)
    assert errors[:-1] == [None] * len(results)
    assert column.type == result_type
    assert column[-1].as_py() is None
    back = pa.ipc.open_stream(_ipc(pa.table({"prediction": column}))).read_all()["prediction"].to_pylist()
    assert_close(results_to_arrow(results, result_type)[0].to_pylist(), back[:-1], case.tolerance)


@each_case
def test_specification_is_light_and_survives_pickle(case: Case, model: Model) -> None:
    spec = spec_of(case, model)
    first = case.items()[:1]
    results = spec.run(first)
    data = pickle.dumps(spec)
    assert len(data) < 5000
    assert_close(pickle.loads(data).run(first), results, case.tolerance)


@pytest.mark.parametrize("name", tasks.names())
def test_every_task_has_a_case(name: str) -> None:
    assert any(tasks.get(case.task).name == name for case in CASES)


@pytest.mark.parametrize("name", tasks.names())
def test_unknown_parameter_is_refused_by_name_before_anything_loads(name: str) -> None:
    with pytest.raises(rp.ConfigError, match=r"parameters\.no_such_thing: unknown name"):
        rp.pipeline(name, model="org/nothing", no_such_thing=1)


@pytest.mark.parametrize("name", tasks.names())
def test_every_input_and_parameter_is_described(name: str) -> None:
    task = tasks.get(name)
    assert task.summary and task.result_description
    assert all(field.description for field in task.inputs)
    assert all(info.description for info in task.parameters.model_fields.values())


def _ipc(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()
