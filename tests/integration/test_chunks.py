"""Chunks spread over workers by a real Ray, which cuts between the chunks of a row, give what one process gives."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from transformers.pipelines.base import ChunkPipeline

import ray_pipelines as rp
from ray_pipelines import tasks
from ray_pipelines.arrow import results_to_arrow
from ray_pipelines.job_file import validate_job
from tests.cases import CASES
from tests.closeness import assert_close
from tests.unit.data.test_workers import table_of

pytestmark = pytest.mark.usefixtures("ray_cluster")
Model = Callable[[str], str]

CHUNKED = ("qa-stride", "wav2vec2-ctc-chunks", "sam-crops")
"""A text, a recording and an image; all other cases go through the same steps without Ray in tests/unit/test_stages."""


@pytest.fixture
def tiny_blocks() -> Iterator[None]:
    """Ray cuts every block that it can: at 1 KB."""
    from ray.data import DataContext

    context = DataContext.get_current()
    size, context.target_max_block_size = context.target_max_block_size, 1000
    yield
    context.target_max_block_size = size


@pytest.mark.usefixtures("tiny_blocks")
@pytest.mark.parametrize("name", CHUNKED)
def test_groupby_gives_what_run_gives(name: str, model: Model) -> None:
    import ray

    (case,) = [case for case in CASES if case.name == name]
    items = case.items()
    spec = rp.pipeline(
        case.task,
        model=model(case.model),
        num_cpus=1,
        chunking="groupby",
        batch={"window_chunks": 2},
        **case.parameters,
    )
    table = table_of(spec.task, items)
    inputs = {column.removeprefix("my_"): column for column in table.column_names}
    table = table.append_column("n", pa.array(range(len(items))))
    dataset = spec(ray.data.from_arrow(table), **inputs)
    output = pa.concat_tables([block for block in ray.get(dataset.to_arrow_refs()) if block.num_rows]).sort_by("n")
    assert output.column_names == [*table.column_names, "prediction", "error"]
    assert output.select(table.column_names).equals(table)
    assert output["error"].null_count == len(items)
    result_type = spec.task.result_type(tasks.validate_parameters(spec.task, case.parameters))
    assert output.schema.field("prediction").type == result_type
    expected = results_to_arrow(spec.run(items), result_type)[0].to_pylist()
    assert_close(output["prediction"].to_pylist(), expected, case.tolerance)


class WordsPipeline(ChunkPipeline):
    """A pipeline of a user's own: one forward per word.

    The word `unreadable` cannot be preprocessed, `poison` fails in its forward, and a word `kill-…` or `die-…` ends the
    process with SIGKILL, in preprocess or forward, the first time it comes.
    """

    def _sanitize_parameters(self, factor: int | None = None) -> Any:
        return {}, {}, {} if factor is None else {"factor": factor}

    def preprocess(self, text: str) -> Iterator[Any]:
        for word in text.split():
            if word == "unreadable":
                raise ValueError("an unreadable word")
            kill_once(word, "kill-")
            yield {**self.tokenizer(word[:20], return_tensors="pt"), "word": word}

    def _forward(self, inputs: Mapping[str, Any]) -> Any:
        word = inputs["word"]
        if word == "poison":
            raise ValueError("a poisonous word")
        kill_once(word, "die-")
        names = ("input_ids", "attention_mask", "token_type_ids")
        return {"logits": self.model(**{name: inputs[name] for name in names}).logits, "word": word}

    def postprocess(self, outputs: Sequence[Mapping[str, Any]], factor: int = 1) -> Any:
        scores = [float(factor * output["logits"][0, 0]) for output in outputs]
        return {"words": [output["word"] for output in outputs], "scores": scores}


def kill_once(word: str, prefix: str) -> None:
    if word.startswith(prefix) and not Path(word.removeprefix(prefix)).exists():
        Path(word.removeprefix(prefix)).touch()
        os.kill(os.getpid(), signal.SIGKILL)


WORDS_TYPE = pa.struct([("words", pa.list_(pa.string())), ("scores", pa.list_(pa.float64()))])


@pytest.mark.usefixtures("tiny_blocks")
def test_bad_chunks_cost_their_row_and_killed_workers_nothing(model: Model, tmp_path: Path) -> None:
    import ray

    texts: list[Any] = [f"row {n} " + "word " * (n % 5) for n in range(40)]
    texts[3] = "   "
    texts[5] = f"a kill-{tmp_path}/preprocess z"
    texts[9] = "good poison good unreadable good"
    texts[13] = "good good unreadable poison"
    texts[20] = f"a b c die-{tmp_path}/forward z"
    texts[30] = None
    folder = model("bert-classifier")
    spec = rp.pipeline(
        "word-scores",
        model=folder,
        tokenizer=folder,
        pipeline_class=WordsPipeline,
        factor=3,
        num_cpus=1,
        chunking="groupby",
        batch={"window_chunks": 5},
    )
    table = pa.table({"n": range(40), "text": texts, "big": [b"x" * 500] * 40})
    dataset = spec(ray.data.from_arrow(table), inputs="text", prediction_type=WORDS_TYPE)
    rows = sorted(dataset.take_all(), key=lambda row: row["n"])
    assert len(list(tmp_path.iterdir())) == 2
    assert [row["n"] for row in rows] == list(range(40))
    assert all(row["text"] == text and row["big"] == b"x" * 500 for row, text in zip(rows, texts, strict=True))
    assert rows[3]["prediction"] == {"words": [], "scores": []}
    failed = {row["n"]: (row["error"]["stage"], row["error"]["message"]) for row in rows if row["error"]}
    assert failed.keys() == {9, 13, 30}
    assert failed[9] == ("forward", "a poisonous word")
    assert failed[13] == ("preprocess", "an unreadable word")
    expected = spec.run(texts)
    for row, result in zip(rows, expected, strict=True):
        if row["error"]:
            assert row["prediction"] is None
            assert row["error"] == result.as_dict()
        else:
            assert_close(row["prediction"], result)


def test_job_spreads_a_long_row_and_says_so(model: Model, tmp_path: Path) -> None:
    texts = [f"Angela Merkel met Barack Obama in Paris {n} ." for n in range(12)]
    texts[4] = " ".join(texts * 30)
    rows = pa.table({"n": range(13), "text": [*texts, None]})
    pq.write_table(rows, tmp_path / "in.parquet")
    job = validate_job(
        {
            "task": "token-classification",
            "model": model("bert-ner"),
            "parameters": {"stride": 4, "aggregation_strategy": "simple"},
            "read": {"path": str(tmp_path / "in.parquet")},
            "write": {"path": str(tmp_path / "out"), "columns": ["n"]},
            "workers": {"num_cpus": 1, "concurrency": 2},
        }
    )
    report = rp.run_job(job).report
    assert (report.num_rows, report.num_results, report.num_errors) == (13, 12, 1)
    assert "chunks by groupby: the longest of 13 rows makes" in report.plan
    assert json.loads((tmp_path / "out/report.json").read_text())["workers"] == report.plan
    results = pyarrow.dataset.dataset(tmp_path / "out/results").to_table().sort_by("n")
    assert results.column_names == ["n", "prediction"]
    expected = rp.pipeline("token-classification", model=job.model.name, **job.parameters).run(texts)
    assert_close(results["prediction"].to_pylist(), expected)
    (letter,) = pyarrow.dataset.dataset(tmp_path / "out/dead_letters").to_table().to_pylist()
    assert (letter["row"], letter["stage"], letter["input"]) == (12, "decode", {"n": 12})


def test_job_shuffles_in_waves_and_a_stop_costs_one_of_them(model: Model, tmp_path: Path) -> None:
    texts: list[str | None] = [f"Angela Merkel met Barack Obama in Paris {n} ." for n in range(70)]
    texts[34] = None
    pq.write_table(pa.table({"n": range(70), "text": texts}), tmp_path / "in.parquet")
    values = {
        "task": "token-classification",
        "model": model("bert-ner"),
        "parameters": {"stride": 4, "aggregation_strategy": "simple"},
        "read": {"path": str(tmp_path / "in.parquet"), "rows_per_block": 1},
        "write": {"path": str(tmp_path / "out"), "columns": ["n"]},
        "workers": {"num_cpus": 1, "chunking": "groupby"},
    }
    with pytest.raises(rp.TooManyErrors):
        rp.run_job(validate_job({**values, "max_errors": 0}))
    written = pyarrow.dataset.dataset(tmp_path / "out/results").to_table()["n"].to_pylist()
    assert set(written) >= set(range(32)), "the first wave, which the second does not touch"
    report = rp.run_job(validate_job({**values, "max_errors": 1})).report
    assert report.num_rows_before >= 32
    assert (report.num_rows, report.num_results, report.num_errors) == (70, 69, 1)
    results = pyarrow.dataset.dataset(tmp_path / "out/results").to_table().sort_by("n")
    assert results["n"].to_pylist() == [n for n in range(70) if texts[n]]
    expected = rp.pipeline("token-classification", model=values["model"], **values["parameters"]).run(
        [text for text in texts if text]
    )
    assert_close(results["prediction"].to_pylist(), expected)


class NotChunked(transformers.TextClassificationPipeline):
    """A user's pipeline with one forward per row."""


class Untravelled(WordsPipeline):
    """Its chunks hold what Arrow does not."""

    def preprocess(self, text: str) -> Iterator[Any]:
        yield {"input_ids": torch.ones(1, 2, dtype=torch.int64), "span": object()}


def test_own_pipeline_whose_chunks_cannot_travel_is_refused_before_it_runs(model: Model) -> None:
    import ray

    folder = model("bert-classifier")
    dataset = ray.data.from_arrow(pa.table({"text": ["a", "b"]}))
    own = {"model": folder, "tokenizer": folder, "num_cpus": 1, "chunking": "groupby"}
    with pytest.raises(rp.ConfigError, match=re.escape("own-words makes one forward of each row")):
        rp.pipeline("own-words", pipeline_class=NotChunked, **own)(dataset, inputs="text", prediction_type=WORDS_TYPE)
    spec = rp.pipeline("own-words", pipeline_class=Untravelled, **own)
    with pytest.raises(
        rp.ConfigError, match=re.escape("expected in_worker; got groupby. The chunks of own-words cannot leave")
    ):
        spec(dataset, inputs="text", prediction_type=WORDS_TYPE)
