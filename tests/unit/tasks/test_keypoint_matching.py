from __future__ import annotations

from collections.abc import Callable

import pytest
import transformers

import ray_pipelines as rp
from tests.cases.vision import picture

Model = Callable[[str], str]


def points(result: list[dict], image: int) -> list[tuple[int, int]]:
    return [(match[f"keypoint_image_{image}"]["x"], match[f"keypoint_image_{image}"]["y"]) for match in result]


def test_points_lie_in_the_image_where_transformers_swaps_the_scales(model: Model) -> None:
    folder = model("superglue")
    images = {"image_0": picture((160, 40), 3), "image_1": picture((160, 40), 4)}
    theirs = transformers.pipeline("keypoint-matching", model=folder, device="cpu")(list(images.values()))
    (ours,) = rp.pipeline("keypoint-matching", model=folder, device="cpu").run([images])
    assert len(ours) == len(theirs) > 0
    for image in (0, 1):
        for (x, y), (swapped_x, swapped_y) in zip(points(ours, image), points(theirs, image), strict=True):
            assert 0 <= x < 160 and 0 <= y < 40
            assert abs(swapped_x - x / 4) <= 1 and abs(swapped_y - y * 4) <= 4
    assert max(y for _, y in points(theirs, 0) + points(theirs, 1)) >= 40


def test_images_of_a_pair_may_differ_in_size(model: Model) -> None:
    images = {"image_0": picture((64, 64), 3), "image_1": picture((90, 30), 4)}
    (result,) = rp.pipeline("keypoint-matching", model=model("superglue"), device="cpu").run([images])
    assert result and all(0 <= x < 90 and 0 <= y < 30 for x, y in points(result, 1))


def test_a_pair_is_taken_as_transformers_takes_it(model: Model) -> None:
    images = (picture((64, 64), 3), picture((90, 30), 4))
    spec = rp.pipeline("keypoint-matching", model=model("superglue"), device="cpu")
    named, pair, listed, triple = spec.run(
        [{"image_0": images[0], "image_1": images[1]}, images, [*images], 3 * images]
    )
    assert named == pair == listed
    assert isinstance(triple, rp.RowError)


def test_matches_below_the_threshold_are_left_out(model: Model) -> None:
    images = {"image_0": picture((64, 64), 0), "image_1": picture((64, 64), 1)}

    def matches(threshold: float) -> list[dict]:
        spec = rp.pipeline("keypoint-matching", model=model("superglue"), device="cpu", threshold=threshold)
        return spec.run([images])[0]

    every = matches(0.0)
    threshold = every[0]["score"] - 1e-6
    assert matches(threshold) == [match for match in every if match["score"] > threshold]
    assert 0 < len(matches(threshold)) < len(every)


@pytest.mark.parametrize("name", ("image_0", "image_1"))
def test_a_missing_image_is_named(name: str, model: Model) -> None:
    images = {"image_0": picture((8, 8)), "image_1": picture((8, 8))}
    del images[name]
    images.setdefault("image_0", None)
    (result,) = rp.pipeline("keypoint-matching", model=model("superglue"), device="cpu").run([images])
    assert isinstance(result, rp.RowError) and name in result.message
