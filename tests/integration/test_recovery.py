"""Workers that are killed while they work change nothing in the results."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import transformers

import ray_pipelines as rp
from tests.closeness import assert_close

pytestmark = pytest.mark.usefixtures("ray_cluster")
Model = Callable[[str], str]


class DyingPipeline(transformers.TextClassificationPipeline):
    """Kills its own process with SIGKILL at a certain text, the first time it comes."""

    def preprocess(self, inputs: str, **arguments: object) -> object:
        text, _, marker = inputs.partition("|")
        if marker and not Path(marker).exists():
            Path(marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().preprocess(text, **arguments)


@pytest.mark.parametrize("stages", ["fused", "split"])
def test_killed_worker_is_restarted_and_no_row_is_lost_or_doubled(stages: str, model: Model, tmp_path: Path) -> None:
    import ray

    texts = [f"row {n}" for n in range(200)]
    deadly = [f"{text}|{tmp_path}/{stages}-{n}" if n in (37, 150) else text for n, text in enumerate(texts)]
    folder = model("bert-classifier")
    spec = rp.pipeline(
        "text-classification",
        model=folder,
        pipeline_class=DyingPipeline,
        num_cpus=1,
        stages=stages,
        batch={"window_rows": 20},
    )
    table = pa.table({"n": range(200), "text": deadly})
    dataset = spec(ray.data.from_arrow([table.slice(start, 20) for start in range(0, 200, 20)]))
    rows = sorted(dataset.take_all(), key=lambda row: row["n"])
    assert [row["n"] for row in rows] == list(range(200))
    assert len(list(tmp_path.iterdir())) == 2
    assert_close([row["prediction"] for row in rows], rp.pipeline("text-classification", model=folder).run(texts))
