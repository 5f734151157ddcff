"""Zero-shot classification of sounds: labels of rows, and crops that do not depend on luck."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import transformers

import ray_pipelines as rp
from ray_pipelines.engine.transfer import pack, unpack
from tests.cases.media import sound
from tests.closeness import assert_close

TASK = "zero-shot-audio-classification"
LABELS = ["a dog", "rain on a roof", "bells"]
Model = Callable[[str], str]


def spec_of(model: str, **parameters: Any) -> rp.PipelineSpec:
    return rp.pipeline(TASK, model=model, device="cpu", **parameters)


@pytest.mark.parametrize("name", ["clap", "clap-fused"])
def test_crops_of_long_clips_depend_on_the_clip_alone_where_transformers_crops_at_random(
    name: str, model: Model
) -> None:
    clips = [sound(length, seed) for seed, length in enumerate((40_000, 30_001, 4_000, 40_000))]
    pipe = transformers.pipeline(TASK, model=model(name), device="cpu")
    seen = {str(pipe(clips[0], candidate_labels=LABELS)) for _ in range(8)}
    assert len(seen) > 1
    together = spec_of(model(name), candidate_labels=LABELS).run(clips)
    singly = spec_of(model(name), candidate_labels=LABELS, batch={"max_size": 1})
    np.random.seed(5)
    assert_close(singly.run(clips[::-1])[::-1], together, 1e-5)
    assert_close(singly.run(clips[1:2]), together[1:2], 1e-5)


def test_numpys_generator_goes_on_as_if_nothing_had_happened(model: Model) -> None:
    np.random.seed(3)
    expected = np.random.random(2)
    np.random.seed(3)
    first = np.random.random()
    spec_of(model("clap"), candidate_labels=LABELS).run([sound(40_000)])
    assert [first, np.random.random()] == expected.tolist()


def test_rows_with_their_own_labels_share_a_forward_and_equal_transformers(model: Model) -> None:
    pipe = transformers.pipeline(TASK, model=model("clap"), device="cpu")
    clips = [sound(length, seed) for seed, length in enumerate((8000, 5000, 6000, 7000))]
    own = [["wind", "a dog"], "thunder, a cat sat on the mat", None, ["one"]]
    rows = [{"audio": clip, "candidate_labels": labels} for clip, labels in zip(clips, own, strict=True)]
    spec = spec_of(model("clap"), candidate_labels="a dog, rain on a roof ,bells", hypothesis_template="I hear {}.")
    results = spec.run(rows)
    assert spec._runner().counters.num_forwards == 1
    lists = [own[0], ["thunder", "a cat sat on the mat"], LABELS, ["one"]]
    for clip, labels, result in zip(clips, lists, results, strict=True):
        assert_close(result, pipe(clip, candidate_labels=labels, hypothesis_template="I hear {}."), 1e-5)


def test_inputs_and_logits_survive_the_way_between_stages(model: Model) -> None:
    clips = [sound(8000), sound(20_000, 1)]
    runner = spec_of(model("clap-fused"), candidate_labels=LABELS)._runner()
    chunks = [[unpack(pack(chunk)) for chunk in runner.preprocess(clip)] for clip in clips]
    outputs = [[unpack(pack(output)) for output in made] for made in runner.outputs(chunks)]
    assert_close([runner.postprocess(made) for made in outputs], list(runner.run(clips)), 1e-5)


def test_the_same_label_twice_is_scored_twice(model: Model) -> None:
    (result,) = spec_of(model("clap"), candidate_labels=["bells", "bells"]).run([sound(8000)])
    assert [entry["label"] for entry in result] == ["bells", "bells"]
    assert_close([entry["score"] for entry in result], [0.5, 0.5])


def test_rows_without_labels_fail_alone(model: Model) -> None:
    rows = [{"audio": sound(800), "candidate_labels": labels} for labels in (["a"], None, [], ["a", 3], " , ")]
    results = spec_of(model("clap")).run(rows)
    assert not isinstance(results[0], rp.RowError)
    for result in results[1:]:
        assert isinstance(result, rp.RowError) and result.type == "InvalidInput"
        assert "candidate_labels" in result.message


def test_a_label_longer_than_the_model_fails_alone(model: Model) -> None:
    rows = [{"audio": sound(800), "candidate_labels": [label]} for label in ("bell", "bell " * 100, "dog")]
    results = spec_of(model("clap")).run(rows)
    assert isinstance(results[1], rp.RowError) and "is longer than the model takes" in results[1].message
    assert results[0][0]["label"] == "bell" and results[2][0]["label"] == "dog"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"candidate_labels": []}, "at least one label"),
        ({"candidate_labels": " , "}, "at least one label"),
        ({"hypothesis_template": "no place"}, "one {}, where the label goes"),
        ({"hypothesis_template": "{a}"}, "one {}, where the label goes"),
    ],
    ids=str,
)
def test_wrong_parameters_are_refused_before_anything_loads(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(rp.ConfigError, match=message):
        rp.pipeline(TASK, model="org/nothing", **parameters)
