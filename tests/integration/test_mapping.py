"""`spec.map`: what comes in comes back, in its order, with what `spec.run` gives."""

from __future__ import annotations

import itertools
import os
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import ray_pipelines as rp
from ray_pipelines.report import terminal
from tests.cases.media import TEXTS, image
from tests.closeness import assert_close

pytestmark = pytest.mark.usefixtures("ray_cluster")
Model = Callable[[str], str]

ROWS = [TEXTS[index % len(TEXTS)][: 5 + index % 40] for index in range(50)]


@pytest.fixture(scope="module")
def spec(model: Model) -> rp.PipelineSpec:
    return rp.pipeline("text-classification", model("bert-classifier"), num_cpus=1, batch={"window_rows": 16}, top_k=2)


@pytest.fixture(scope="module")
def expected(spec: rp.PipelineSpec) -> list[Any]:
    return spec.run(ROWS)


def test_a_list_gives_what_run_gives_also_of_mixed_items(spec: rp.PipelineSpec, expected: list[Any]) -> None:
    items = [*ROWS[:20], {"text": ROWS[20]}, {"text": ROWS[21], "text_pair": "and so on"}, 7, None, *ROWS[22:]]
    results = spec.map(items, progress=False)
    failed = [index for index, result in enumerate(results) if isinstance(result, rp.RowError)]
    assert failed == [22, 23]
    assert_close([*results[:21], *results[24:]], [*expected[:21], *expected[22:]])
    assert_close(results[21], spec.run([items[21]])[0])
    assert spec.map([], progress=False) == []


def test_pictures_in_a_list_and_in_a_frame(model: Model) -> None:
    spec = rp.pipeline("image-classification", model("vit-classifier"), num_cpus=1, top_k=2)
    pictures = [image(size=(10 + index, 40 - index), seed=index) for index in range(5)]
    expected = spec.run(pictures)
    assert_close(spec.map(pictures, progress=False), expected)
    frame = spec.map(pd.DataFrame({"id": range(5), "picture": pictures}), image="picture", progress=False)
    assert_close(frame["prediction"].tolist(), expected)
    data = datasets.Dataset.from_dict({"image": pictures}, features=datasets.Features({"image": datasets.Image()}))
    made = spec.map(data, progress=False)
    assert isinstance(made.features["image"], datasets.Image)
    assert_close(made["prediction"][:], expected)


def test_frames_and_tables_come_back_with_two_columns(spec: rp.PipelineSpec, expected: list[Any]) -> None:
    reviews = [*ROWS[:30], None, *ROWS[30:]]
    frame = pd.DataFrame({"review": reviews, "other": [object()] * 51}, index=[f"r{number}" for number in range(51)])
    made = spec.map(frame, text="review", progress=False)
    assert list(made.columns) == ["review", "other", "prediction", "error"]
    assert list(made.index) == list(frame.index) and "prediction" not in frame
    assert made["error"].iloc[30]["type"] == "InvalidInput" and made["prediction"].iloc[30] is None
    assert_close(made["prediction"].drop("r30").tolist(), expected)

    table = pa.table({"id": range(51), "text": pa.chunked_array([reviews[:7], reviews[7:]], pa.string())})
    both = spec.map(table, progress=False)
    assert both.column_names == ["id", "text", "prediction", "error"]
    assert both.select(["id", "text"]) == table
    assert_close([row for row in both["prediction"].to_pylist() if row], expected)
    assert spec.map(table.slice(0, 0), progress=False).schema == both.schema


def test_a_column_comes_back_as_results(spec: rp.PipelineSpec, expected: list[Any]) -> None:
    index = pd.Index([9, 8, 8], name="id")
    made = spec.map(pd.Series([ROWS[0], None, ROWS[1]], index=index, name="text"), progress=False)
    assert made.name == "text" and made.index.equals(index)
    assert isinstance(made.iloc[1], rp.RowError)
    assert_close([made.iloc[0], made.iloc[2]], expected[:2])
    assert spec.map(pd.Series([], dtype=str), progress=False).empty
    for column in (pa.chunked_array([ROWS[:1], ROWS[1:2]]), pd.Index(ROWS[:2]), np.array(ROWS[:2])):
        results = spec.map(column, progress=False)
        assert isinstance(results, list)
        assert_close(results, expected[:2])
    (batch,) = pa.table({"text": ROWS[:2]}).to_batches()
    assert_close(spec.map(batch, progress=False)["prediction"].to_pylist(), expected[:2])


def test_datasets_come_back_as_datasets(spec: rp.PipelineSpec, expected: list[Any]) -> None:
    data = datasets.Dataset.from_dict({"id": list(range(50)), "text": ROWS})
    shuffled = data.shuffle(seed=0).select(range(40))
    made = spec.map(datasets.DatasetDict(train=shuffled, test=data.select([])), progress=False)
    assert made["train"].column_names == ["id", "text", "prediction", "error"]
    assert made["train"]["id"][:] == shuffled["id"][:]
    assert_close(made["train"]["prediction"][:], [expected[index] for index in shuffled["id"]])
    assert made["test"].num_rows == 0 and made["test"].column_names == made["train"].column_names
    rows = list(spec.map(data.to_iterable_dataset(), progress=False))
    assert [row["id"] for row in rows] == data["id"][:]
    assert_close([row["prediction"] for row in rows], expected)


def test_rows_of_a_stream_are_made_once_and_their_number_is_shown(
    spec: rp.PipelineSpec, expected: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[int] = []

    def rows() -> Iterator[dict[str, Any]]:
        for number, text in enumerate(ROWS):
            made.append(number)
            yield {"id": number, "text": text}

    monkeypatch.setattr(terminal, "QUIET_INTERVAL_S", 0.0)
    found = list(spec.map(datasets.IterableDataset.from_generator(rows)))
    assert made == list(range(50)) == [row["id"] for row in found]
    assert_close([row["prediction"] for row in found], expected)
    assert re.search(r"^50 rows, [1-9][\d,]* rows/s.*, 0 dead letters$", capsys.readouterr().err, re.MULTILINE)


def test_a_generator_is_not_collected_and_gives_results_on_its_way(
    spec: rp.PipelineSpec, expected: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    taken: list[int] = []

    def endless() -> Iterator[str]:
        for number in itertools.count():
            taken.append(number)
            yield ROWS[number % 50]

    results = spec.map(endless(), progress=False)
    assert_close(list(itertools.islice(results, 50)), expected)
    results.close()  # type: ignore[attr-defined]
    assert len(taken) < 500
    assert len(spec.map(ROWS[:1], progress=False)) == 1
    shown = capfd.readouterr()
    assert "retries" not in shown.out + shown.err


def test_a_reader_streams(spec: rp.PipelineSpec, expected: list[Any]) -> None:
    table = pa.table({"id": range(50), "text": ROWS})
    reader = pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=20))
    made = spec.map(reader, progress=False)
    assert made.schema.names == ["id", "text", "prediction", "error"]
    assert_close(made.read_all()["prediction"].to_pylist(), expected)


def test_chunks_that_are_shuffled_come_back_in_order(model: Model) -> None:
    spec = rp.pipeline(
        "token-classification",
        model("bert-ner"),
        num_cpus=1,
        chunking="groupby",
        aggregation_strategy="simple",
        stride=4,
    )
    texts = [TEXTS[index % len(TEXTS)] * (1 + index % 5) for index in range(12)]
    assert_close(spec.map(texts, progress=False), spec.run(texts))


def test_arrays_of_sound(model: Model) -> None:
    spec = rp.pipeline("audio-classification", model("wav2vec2-classifier-mask"), num_cpus=1, top_k=2)
    sounds = [np.sin(np.arange(1000 + 300 * index) / 9).astype(np.float32) for index in range(4)]
    items = [*sounds, {"array": sounds[0], "sampling_rate": 8000}]
    assert_close(spec.map(items, progress=False), spec.run(items))


def test_wrong_data_and_columns_are_refused_by_name(spec: rp.PipelineSpec) -> None:
    with pytest.raises(TypeError, match="Wrap it"):
        spec.map("one text")
    with pytest.raises(TypeError, match="got a int"):
        spec.map(7)
    with pytest.raises(rp.ConfigError, match='no column "revew"'):
        spec.map(pd.DataFrame({"review": ["a"]}), text="revew")
    with pytest.raises(rp.ConfigError, match="has no columns"):
        spec.map(["a"], text="review")  # type: ignore[call-overload]
    with pytest.raises(rp.ConfigError, match='already has a column "prediction"'):
        spec.map(pd.DataFrame({"text": ["a"], "prediction": [1]}))
    with pytest.raises(rp.ConfigError, match='has no column "text"'):
        spec.map(pd.DataFrame([["a", "b"]]))
    for twice in (pd.DataFrame([["a", "b"]], columns=["text", "text"]), pa.table([["a"], ["b"]], ["text", "text"])):
        with pytest.raises(rp.ConfigError, match='has 2 columns "text"'):
            spec.map(twice)


def test_columns_that_look_like_ours_are_never_unpickled(spec: rp.PipelineSpec) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return os.kill, (os.getpid(), signal.SIGTERM)

    import pickle

    table = pa.table({"text": ROWS[:3], "__item": pa.array([pickle.dumps(Attack())] * 3)})
    import ray

    rows = spec(ray.data.from_arrow(table), text="text").take_all()
    assert [row["error"] for row in rows] == [None] * 3
