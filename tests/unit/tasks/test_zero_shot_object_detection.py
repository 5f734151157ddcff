from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers

import ray_pipelines as rp
from tests.cases.vision import LABELS, picture, pictures
from tests.closeness import assert_close

Model = Callable[[str], str]
TASK = "zero-shot-object-detection"


def test_a_row_without_labels_is_an_empty_result_where_transformers_loses_later_rows(model: Model) -> None:
    folder = model("owlvit")
    rows = [
        {"image": image, "candidate_labels": labels}
        for image, labels in zip(pictures(), (["cat"], [], ["dog", "cat"], "", ["cat"]), strict=False)
    ]
    pipe = transformers.pipeline(TASK, model=folder, device="cpu")
    assert len(pipe([{**row} for row in rows[:3]])) == 1
    results = rp.pipeline(TASK, model=folder, device="cpu").run(rows)
    assert len(results) == 5 and results[1] == results[3] == []
    assert_close([results[index] for index in (0, 2, 4)], [pipe(rows[index]) for index in (0, 2, 4)])


def test_an_image_goes_through_the_model_once_for_all_labels(model: Model) -> None:
    spec = rp.pipeline(TASK, model=model("owlvit"), device="cpu", candidate_labels=LABELS)
    spec.run(pictures())
    assert spec._runner().counters.num_forwards == 1
    assert spec._runner().counters.num_chunks == len(pictures())


def test_labels_have_scores_of_their_own(model: Model) -> None:
    spec = rp.pipeline(TASK, model=model("owlvit"), device="cpu", threshold=0.0)
    image = picture((64, 40))
    together, alone = spec.run(
        [{"image": image, "candidate_labels": LABELS}, {"image": image, "candidate_labels": LABELS[1:2]}]
    )
    scores = {label: sorted(e["score"] for e in together if e["label"] == label) for label in LABELS}
    assert scores[LABELS[0]] != scores[LABELS[1]] != scores[LABELS[2]]
    assert_close(scores[LABELS[1]], sorted(entry["score"] for entry in alone))


def test_labels_are_stripped_and_kept_in_order_of_score(model: Model) -> None:
    spec = rp.pipeline(TASK, model=model("owlvit"), device="cpu", candidate_labels="cat, dog ", threshold=0.0)
    (result,) = spec.run([picture((64, 40))])
    assert {entry["label"] for entry in result} == {"cat", "dog"}
    scores = [entry["score"] for entry in result]
    assert scores == sorted(scores, reverse=True)


def test_a_row_and_a_job_without_labels_fail_by_name(model: Model) -> None:
    (result,) = rp.pipeline(TASK, model=model("owlvit"), device="cpu").run([picture((64, 40))])
    assert isinstance(result, rp.RowError) and "candidate_labels" in result.message


def test_images_of_any_labels_share_a_forward_and_each_set_of_labels_is_embedded_once(model: Model) -> None:
    folder = model("owlvit")
    sets = (["cat"], ["dog", "cat", "a remote control"], ["cat"], ["dog", "cat"], ["dog", "cat", "a remote control"])
    rows = [{"image": picture((64, 40 + 2 * i)), "candidate_labels": labels} for i, labels in enumerate(sets)]
    spec = rp.pipeline(TASK, model=folder, device="cpu", threshold=0.0)
    runner, seen = spec._runner(), []
    runner.steps.pipe.model.base_model.text_model.register_forward_hook(lambda *args: seen.append(1))
    results = spec.run(rows, on_error="raise")
    assert len(seen) == 3
    pipe = transformers.pipeline(TASK, model=folder, device="cpu", threshold=0.0)
    assert_close(results, [pipe(row) for row in rows])
    assert runner.counters.num_forwards == 1


def test_only_boxes_that_may_pass_leave_the_model(model: Model) -> None:
    image = picture((64, 40))

    def output(threshold: float) -> dict[str, torch.Tensor]:
        spec = rp.pipeline(TASK, model("owlvit"), device="cpu", candidate_labels=LABELS, threshold=threshold)
        steps = spec._runner().steps
        (chunk,) = steps.preprocess(image)
        return steps.forward(chunk)

    everything = output(0.0)
    scores = everything["logits"].sigmoid().amax(-1)[0]
    threshold = float(scores.median())
    some = output(threshold)
    assert 0 < some["logits"].shape[1] == some["pred_boxes"].shape[1] < len(scores)
    assert some["logits"].shape[1] >= int((scores > threshold).sum())
    steps = rp.pipeline(TASK, model("owlvit"), device="cpu", candidate_labels=LABELS)._runner().steps
    none = {name: some[name][:, :0] for name in ("logits", "pred_boxes")}
    assert steps.postprocess([{**some, **none}]) == []


@pytest.mark.parametrize(
    ("task", "name"), [(TASK, "owlvit"), (TASK, "grounding-dino"), ("zero-shot-image-classification", "clip")]
)
def test_a_label_that_is_too_long_for_the_model_fails_its_row_by_name(task: str, name: str, model: Model) -> None:
    rows = [{"image": picture((64, 40)), "candidate_labels": labels} for labels in (["cat"], ["word " * 90], ["dog"])]
    one, failed, other = rp.pipeline(task, model=model(name), device="cpu").run(rows)
    assert isinstance(failed, rp.RowError) and failed.message.startswith("candidate_labels: the longest has ")
    assert not isinstance(one, rp.RowError) and not isinstance(other, rp.RowError)
