"""zero-shot-classification: labels of each row, and scores that transformers turns into NaN."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers

import ray_pipelines as rp
from tests.closeness import assert_close

Model = Callable[[str], str]
TASK = "zero-shot-classification"


def test_each_row_may_bring_its_own_labels(model: Model) -> None:
    folder = model("bert-nli")
    spec = rp.pipeline(TASK, folder, candidate_labels=["sport"], device="cpu")
    rows = [
        {"text": "one text", "candidate_labels": ["film", "art"]},
        {"text": "one text", "candidate_labels": "film, art, , cats"},
        {"text": "one text", "candidate_labels": None},
    ]
    two, three, default = spec.run(rows, on_error="raise")
    assert sorted(two["labels"]) == ["art", "film"]
    assert sorted(three["labels"]) == ["art", "cats", "film"]
    assert default["labels"] == ["sport"]
    reference = transformers.pipeline(TASK, folder, device="cpu")("one text", candidate_labels=["film", "art"])
    assert_close(two, {"labels": reference["labels"], "scores": reference["scores"]})


def test_a_row_without_any_labels_fails_alone(model: Model) -> None:
    spec = rp.pipeline(TASK, model("bert-nli"), device="cpu")
    rows = [{"text": "a", "candidate_labels": ["b"]}, {"text": "a"}, {"text": "a", "candidate_labels": []}]
    good, unset, empty = spec.run(rows)
    assert good["labels"] == ["b"]
    assert unset.type == empty.type == "InvalidInput"
    assert "neither for this row nor as a parameter" in unset.message
    assert "at least one label" in empty.message


def test_large_logits_give_scores_where_transformers_gives_nan(model: Model) -> None:
    network = transformers.AutoModelForSequenceClassification.from_pretrained(model("bert-nli"))
    with torch.no_grad():
        network.classifier.weight.mul_(300)
        network.classifier.bias.mul_(300)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model("bert-nli"))
    labels = [f"label {index}" for index in range(12)]
    reference = transformers.pipeline(TASK, network, tokenizer=tokenizer, device="cpu")
    with pytest.warns(RuntimeWarning):
        theirs = reference("a text", candidate_labels=labels)["scores"]
    assert not all(score == score for score in theirs)
    (ours,) = rp.pipeline(TASK, network, tokenizer=tokenizer, device="cpu", candidate_labels=labels).run(["a text"])
    assert sum(ours["scores"]) == pytest.approx(1)
    assert ours["scores"] == sorted(ours["scores"], reverse=True)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"hypothesis_template": "no place"}, r"hypothesis_template: expected a template with one \{\}"),
        ({"hypothesis_template": "{missing}"}, r"hypothesis_template: expected a template"),
        ({"candidate_labels": " , "}, r"candidate_labels: expected at least one label"),
        ({"candidate_labels": []}, r"candidate_labels: expected at least one label"),
    ],
)
def test_parameters_that_cannot_work_are_refused(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(rp.ConfigError, match=message):
        rp.pipeline(TASK, "org/model", **parameters)
