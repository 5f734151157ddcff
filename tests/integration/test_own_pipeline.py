"""A user's own pipeline over a dataset: its results have a type of their own, given or inferred."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pytest
import transformers

import ray_pipelines as rp
from ray_pipelines.job_file import validate_job

pytestmark = pytest.mark.usefixtures("ray_cluster")
Model = Callable[[str], str]


class CountingPipeline(transformers.Pipeline):
    """Counts tokens; its result is none of transformers' shapes."""

    def _sanitize_parameters(self, factor: int | None = None) -> Any:
        return {}, {}, {} if factor is None else {"factor": factor}

    def preprocess(self, text: str) -> Any:
        return self.tokenizer(text, return_tensors="pt")

    def _forward(self, inputs: Any) -> Any:
        return {"logits": self.model(**inputs).logits, "input_ids": inputs["input_ids"]}

    def postprocess(self, outputs: Any, factor: int = 1) -> Any:
        return {"tokens": factor * outputs["input_ids"].shape[1], "logits": outputs["logits"][0], "note": None}


REFERENCE = f"{__name__}:CountingPipeline"
INFERRED = pa.struct([("tokens", pa.int64()), ("logits", pa.list_(pa.float32())), ("note", pa.string())])


@pytest.mark.parametrize("prediction_type", [None, "infer", INFERRED])
def test_type_is_inferred_or_given(prediction_type: Any, model: Model) -> None:
    import ray

    folder = model("bert-classifier")
    spec = rp.pipeline(
        "count-tokens", model=folder, tokenizer=folder, pipeline_class=CountingPipeline, factor=10, num_cpus=1
    )
    texts = ["a", "a a a", None, "a a"]
    dataset = spec(ray.data.from_arrow(pa.table({"text": texts})), inputs="text", prediction_type=prediction_type)
    rows = dataset.take_all()
    assert [row["prediction"] and row["prediction"]["tokens"] for row in rows] == [30, 50, None, 40]
    assert [row["error"] is not None for row in rows] == [False, False, True, False]
    (block,) = [table for table in ray.get(dataset.to_arrow_refs()) if table.num_rows]
    assert block.schema.field("prediction").type == INFERRED
    assert [result["tokens"] for result in spec.run(["a", "a a"])] == [30, 40]


def test_type_that_cannot_be_inferred_is_refused(model: Model) -> None:
    import ray

    folder = model("bert-classifier")
    spec = rp.pipeline("count-tokens", model=folder, tokenizer=folder, pipeline_class=CountingPipeline, num_cpus=1)
    with pytest.raises(rp.ConfigError, match="prediction_type: cannot be inferred from the first rows"):
        spec(ray.data.from_arrow(pa.table({"text": pa.array([None, None], type=pa.string())})), inputs="text")


def test_job_with_an_own_pipeline(model: Model, tmp_path: Path) -> None:
    folder = model("bert-classifier")
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": "a " * n}) + "\n" for n in range(1, 9)))
    job = validate_job(
        {
            "task": "count-tokens",
            "model": {"name": folder, "tokenizer": folder, "pipeline_class": REFERENCE},
            "parameters": {"factor": 2},
            "inputs": {"inputs": "text"},
            "read": {"path": str(tmp_path / "in.jsonl")},
            "write": {"path": str(tmp_path / "out")},
            "workers": {"num_cpus": 1},
        }
    )
    assert rp.run_job(job).report.num_results == 8
    table = pyarrow.dataset.dataset(tmp_path / "out/results").to_table()
    assert table.schema.field("prediction").type == INFERRED
    assert sorted(row["tokens"] for row in table["prediction"].to_pylist()) == [2 * (n + 2) for n in range(1, 9)]
