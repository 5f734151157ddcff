"""Rows that kill their worker, or hang for ever, become dead letters; their neighbours get their results."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pytest
import transformers

import ray_pipelines as rp
from tests.closeness import assert_close

pytestmark = pytest.mark.usefixtures("ray_cluster")
Model = Callable[[str], str]


class DeadlyPipeline(transformers.TextClassificationPipeline):
    """Dies or hangs at certain texts, each time that they come."""

    def preprocess(self, inputs: str, **arguments: object) -> Any:
        text, _, fate = inputs.partition("|")
        if fate == "sleep":
            time.sleep(1000)
        if fate == "exit":
            sys.exit(1)
        while fate == "loop":
            pass
        inputs = super().preprocess(text, **arguments)
        if fate == "kill":
            # A first token that no other text has tells the forward.
            inputs["input_ids"][0, 0] = 3
        return inputs

    def _forward(self, model_inputs: Mapping[str, Any], **arguments: Any) -> Any:
        if 3 in model_inputs["input_ids"][:, 0].tolist():
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._forward(model_inputs, **arguments)


CASES = {
    "fused": {3: ("sleep", "preprocess", "RowTimeout"), 21: ("loop", "preprocess", "RowTimeout")}
    | {30: ("exit", "preprocess", "SystemExit"), 36: ("kill", "forward", "WorkerKilled")},
    "split": {8: ("sleep", "preprocess", "RowTimeout")},
}


def rows_of(spec: Any, texts: list[str], deadly: Mapping[int, tuple[str, str, str]]) -> list[dict[str, Any]]:
    """The rows of a dataset in their order, some of which have a fate."""
    import ray

    fates = [text + (f"|{deadly[n][0]}" if n in deadly else "") for n, text in enumerate(texts)]
    table = pa.table({"n": range(len(texts)), "text": fates})
    return sorted(spec(ray.data.from_arrow(table)).take_all(), key=lambda row: row["n"])


@pytest.mark.parametrize("stages", CASES)
def test_deadly_rows_are_dead_letters_and_all_others_get_their_results(stages: str, model: Model) -> None:
    deadly = CASES[stages]
    texts = [f"row {n}" for n in range(40)]
    folder = model("bert-classifier")
    spec = rp.pipeline(
        "text-classification",
        model=folder,
        pipeline_class=DeadlyPipeline,
        num_cpus=1,
        stages=stages,
        timeout_s=1,
        batch={"window_rows": 20, "max_size": 1},
    )
    rows = rows_of(spec, texts, deadly)
    assert [row["n"] for row in rows] == list(range(40))
    errors = {row["n"]: (row["error"]["stage"], row["error"]["type"]) for row in rows if row["error"]}
    assert errors == {n: (stage, kind) for n, (_, stage, kind) in deadly.items()}
    good = [n for n in range(40) if n not in deadly]
    expected = rp.pipeline("text-classification", model=folder).run([texts[n] for n in good])
    assert_close([rows[n]["prediction"] for n in good], expected)


def test_a_row_that_is_deadly_to_one_of_several_tasks_is_a_dead_letter_of_all(model: Model) -> None:
    deadly = {8: ("sleep", "preprocess", "RowTimeout"), 21: ("kill", "forward", "WorkerKilled")}
    texts = [f"row {n}" for n in range(30)]
    batch = {"window_rows": 15, "max_size": 1}
    plain = {
        "vector": rp.pipeline("feature-extraction", model=model("bert-features"), pooling="mean", batch=batch),
        "sentiment": rp.pipeline("text-classification", model=model("bert-classifier"), batch=batch),
    }
    doomed = rp.pipeline(
        "text-classification", model=model("bert-classifier"), pipeline_class=DeadlyPipeline, batch=batch
    )
    both = rp.pipelines({**plain, "sentiment": doomed}, {"num_cpus": 1, "concurrency": 1, "timeout_s": 2})
    # To the task beside it, a text with its fate is a text like any other.
    rows = rows_of(both, texts, deadly)
    assert [row["n"] for row in rows] == list(range(30))
    errors = {row["n"]: (row["error"]["stage"], row["error"]["type"]) for row in rows if row["error"]}
    assert errors == {n: (stage, kind) for n, (_, stage, kind) in deadly.items()}
    assert all(rows[n]["vector"] is None and rows[n]["sentiment"] is None for n in deadly)
    good = [n for n in range(30) if n not in deadly]
    for name, spec in plain.items():
        assert_close([rows[n][name] for n in good], spec.run([texts[n] for n in good]))
