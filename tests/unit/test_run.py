"""`spec.run`: lists, datasets and generators, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import ray_pipelines as rp
from tests.closeness import assert_close

Model = Callable[[str], str]


@pytest.fixture
def spec(model: Model) -> rp.PipelineSpec:
    return rp.pipeline("text-classification", model=model("bert-classifier"), top_k=None)


def test_list_gives_a_list_and_anything_else_a_lazy_iterator(spec: rp.PipelineSpec) -> None:
    texts = ["a", "b c", "d"]

    class MapStyle:
        def __len__(self) -> int:
            return len(texts)

        def __getitem__(self, index: int) -> str:
            return texts[index]

    expected = spec.run(texts)
    assert isinstance(expected, list)
    assert spec.run([]) == []
    generated = spec.run(text for text in texts)
    assert isinstance(generated, Iterator)
    assert_close(list(generated), expected)
    assert_close(spec.run(tuple(texts)), expected)
    assert_close(list(spec.run(MapStyle())), expected)


def test_generator_without_end_is_fine(spec: rp.PipelineSpec) -> None:
    def forever() -> Iterator[str]:
        while True:
            yield "again"

    results = spec.run(forever())
    assert_close(next(results), next(results))


@pytest.mark.parametrize("items", ["one string", b"bytes", {"text": "a"}, 5, None])
def test_single_item_is_refused_with_what_to_do(spec: rp.PipelineSpec, items: object) -> None:
    with pytest.raises(TypeError, match=r"Wrap it: \[item\]"):
        spec.run(items)


@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame({"text": ["a"]}),
        pa.table({"text": ["a"]}),
        pa.record_batch({"text": ["a"]}),
        datasets.DatasetDict({"test": datasets.Dataset.from_dict({"text": ["a"]})}),
    ],
    ids=lambda table: type(table).__name__,
)
def test_table_is_refused_as_its_columns_are_no_items(spec: rp.PipelineSpec, table: Any) -> None:
    for one in (spec, rp.pipelines({"sentiment": spec})):
        with pytest.raises(TypeError, match=r"which has columns\. Use \.map"):
            one.run(table)


def test_items_in_place_of_a_dataset_are_refused_with_what_to_do(spec: rp.PipelineSpec) -> None:
    several = rp.pipelines({"one": spec, "two": spec})
    for call in (spec, several):
        with pytest.raises(TypeError, match=r"expected a ray.data.Dataset; got a list.*run\(items\).*map\(items\)"):
            call(["a row"])  # type: ignore[arg-type]


def test_model_is_a_name_or_a_model() -> None:
    with pytest.raises(rp.ConfigError, match="model: expected a hub id, a folder or a model; got a object"):
        rp.pipeline("text-classification", model=object())


def test_column_of_a_table_is_a_list_of_items(spec: rp.PipelineSpec) -> None:
    expected = spec.run(["a", None, "b c"])
    texts = pa.array(["a", None, "b c"])
    for column in (pd.Series(["a", np.nan, "b c"]), pd.array(["a", pd.NA, "b c"]), texts, pa.chunked_array([texts])):
        results = spec.run(column)
        assert isinstance(results, list)
        assert_close([results[0], results[2]], [expected[0], expected[2]])
        assert results[1] == expected[1]
    assert_close(list(spec.run(np.array(["a", "b c"]))), [expected[0], expected[2]])
    rows = datasets.Dataset.from_dict({"text": ["a", "b c"]})
    assert_close(list(spec.run(rows)), [expected[0], expected[2]])
    with pytest.raises(TypeError, match=r"Wrap it: \[item\]"):
        rp.pipelines({"sentiment": spec}).run("one string")  # type: ignore[call-overload]


def test_failed_item_is_an_error_in_its_place_or_raised(spec: rp.PipelineSpec) -> None:
    good, bad = spec.run(["a", None])
    assert isinstance(bad, rp.RowError) and not isinstance(good, rp.RowError)
    assert (bad.stage, bad.type, bad.message) == ("decode", "InvalidInput", "text: expected a value; got null.")
    with pytest.raises(rp.RowError, match="text: expected a value; got null") as raised:
        spec.run(["a", None], on_error="raise")
    assert raised.value.__cause__ is not None
    with pytest.raises(ValueError, match="on_error"):
        spec.run(["a"], on_error="ignore")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (5, "text: expected a string; got int."),
        (["a"], "text: expected a string; got list."),
        ({"text_pair": "a"}, "text: expected a string; got dict."),
        ({"text": "a", "text_pair": 3}, "text_pair: expected a string; got int."),
        ({"text": "a", "text_pairs": "b"}, 'text-classification has no input "text_pairs". Did you mean "text_pair"?'),
        ("word " * 500, "tokens; the model takes 64. Set truncation: true"),
    ],
)
def test_reason_names_what_was_expected(spec: rp.PipelineSpec, item: object, message: str) -> None:
    (error,) = spec.run([item])
    assert isinstance(error, rp.RowError)
    assert message in error.message


def test_other_keys_of_a_row_are_passed_over(spec: rp.PipelineSpec, model: Model) -> None:
    plain = spec.run([{"text": "a"}, {"text": "a", "text_pair": "b"}])
    rows = [
        {"text": "a", "label": 1, "text_id": 7, 3: None},
        {"idx": 2, "text": "a", "text_pair": "b", "text_pairs": 3},
    ]
    assert_close(spec.run(rows), plain)
    answers = rp.pipeline("question-answering", model=model("bert-qa"))
    row = {"question": "Who?", "context": "John works for a company."}
    squad = {"id": "5733be28", "title": "Company", **row, "question_id": 3, "answers": {"text": [], "answer_start": []}}
    assert_close(answers.run([squad]), answers.run([row]))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"context": "John works.", "id": 1}, "question: is required by question-answering; the row does not have it."),
        ({"question": "Who?", "contexts": "John."}, 'has no input "contexts". Did you mean "context"?'),
        ({"qestion": "Who?", "context": "John."}, 'has no input "qestion". Did you mean "question"?'),
    ],
)
def test_missing_and_misspelled_keys_of_a_row_are_named(row: dict[str, Any], message: str, model: Model) -> None:
    (error,) = rp.pipeline("question-answering", model=model("bert-qa")).run([row])
    assert message in error.message


def test_half_of_a_surrogate_pair_is_named_and_fails_alone(spec: rp.PipelineSpec) -> None:
    good, bad = spec.run(["a", "b\ud800"])
    assert isinstance(good, list)
    assert bad.message == "text: expected Unicode text; got half of a surrogate pair at character 1."
