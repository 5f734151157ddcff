"""Every case in three stages: a model without weights before and after, and Arrow values in between."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import ray_pipelines as rp
from ray_pipelines import tasks
from ray_pipelines.arrow import TENSORS_TYPE
from ray_pipelines.config import BatchConfig, MediaLimits, ModelConfig
from ray_pipelines.data.chunks import _Part, forward_part, grouped_rows
from ray_pipelines.data.watchdog import Watchdog
from ray_pipelines.engine.hub import resolve_model
from ray_pipelines.engine.load import is_chunked, load_runner
from ray_pipelines.engine.runner import Runner
from ray_pipelines.engine.transfer import PackedChunks, pack, unpack
from tests.cases import CASES, Case, language
from tests.closeness import assert_close

PICTURES_OF_PAGES = Case(
    "layoutlmv3-pictures",
    "document-question-answering",
    "layoutlmv3-docqa",
    language._pages_with_pictures,
    {"top_k": 2},
)
SPLITTABLE = [case for case in [*CASES, PICTURES_OF_PAGES] if tasks.get(case.task).splittable]


def through_arrow(rows: Sequence[Any]) -> list[Any]:
    column = pa.array([[pack(chunk) for chunk in row] for row in rows], type=TENSORS_TYPE)
    return [[unpack(chunk) for chunk in row.as_py()] for row in column]


@pytest.mark.parametrize("case", SPLITTABLE, ids=lambda case: case.name)
def test_stages_give_the_same_as_one_process(case: Case, model: Callable[[str], str]) -> None:
    spec = rp.pipeline(case.task, model=model(case.model), device="cpu", **case.parameters)
    parameters = tasks.validate_parameters(spec.task, case.parameters)
    pinned = resolve_model(spec.task.name, spec.model)

    def runner(weights: bool) -> Runner:
        return load_runner(spec.task, pinned, parameters, BatchConfig(max_size=3), MediaLimits(), weights=weights)

    without_weights = runner(weights=False)
    assert without_weights.steps.pipe.device.type == "meta"
    items = [without_weights.steps.item_of_input(item) for item in case.items()]
    chunks = through_arrow([without_weights.preprocess(item) for item in items])
    outputs = through_arrow(list(runner(weights=True).outputs(chunks)))
    results = [without_weights.postprocess(row) for row in outputs]
    expected = spec.run(case.items())
    assert_close(results, expected, case.tolerance)
    if spec.task.chunked:
        assert_close(through_parts(items, without_weights, runner(weights=True)), expected, case.tolerance)


def through_parts(items: Sequence[Any], without_weights: Runner, with_weights: Runner) -> list[Any]:
    """The results of items whose chunks go to their forwards in another order, cut from their rows."""
    part = _Part(pa.table({"n": range(len(items))}))
    for row, item in enumerate(items):
        chunks = list(without_weights.explode(item))
        for index, chunk in enumerate(chunks):
            part.add_chunk(row, index, pack(chunk))
        part.add_carrier(row, len(chunks), None)
    table = part.flush()
    table = table.take(random.Random(0).sample(range(table.num_rows), table.num_rows))
    with_weights.watch = Watchdog(timeout_s=None)
    parts = [forward_part(table.slice(start, 3), with_weights) for start in range(0, table.num_rows, 3)]
    forwarded = pa.concat_tables(parts)
    order, starts = grouped_rows(forwarded)
    outputs = PackedChunks(forwarded["__chunk"])
    groups = np.split(order, starts[1:])
    return [without_weights.postprocess([outputs[row] for row in group[1:]]) for group in groups]


@pytest.mark.parametrize("name", tasks.names())
def test_task_says_whether_its_pipeline_makes_chunks(name: str) -> None:
    task = tasks.get(name)
    assert is_chunked(task, ModelConfig(), {}) is task.chunked
