from __future__ import annotations

from collections.abc import Callable

import pytest

import ray_pipelines as rp
from tests.cases.vision import picture, pictures
from tests.closeness import assert_close

Model = Callable[[str], str]


def test_images_of_one_shape_share_a_forward(model: Model) -> None:
    spec = rp.pipeline("object-detection", model=model("detr-detector"), device="cpu")
    shapes = {image.size for image in pictures()}
    spec.run(pictures())
    assert spec._runner().counters.num_forwards == len(shapes) < len(pictures())


def test_an_image_without_objects_has_an_empty_result(model: Model) -> None:
    spec = rp.pipeline("object-detection", model=model("yolos-detector"), device="cpu", threshold=1.0)
    assert spec.run(pictures()[:2]) == [[], []]


def test_boxes_are_pixels_of_the_image_in_the_row(model: Model) -> None:
    spec = rp.pipeline("object-detection", model=model("yolos-detector"), device="cpu", threshold=0.0)
    small = picture((64, 40))
    large = small.resize((640, 400))
    for one, ten in zip(*spec.run([small, large]), strict=True):
        scaled = {side: 10 * value for side, value in one["box"].items()}
        assert_close([float(v) for v in ten["box"].values()], [float(v) for v in scaled.values()], tolerance=40)


@pytest.mark.parametrize("threshold", (-0.1, 1.5))
def test_a_threshold_is_a_probability(threshold: float) -> None:
    with pytest.raises(rp.ConfigError, match=r"parameters\.threshold"):
        rp.pipeline("object-detection", model="org/model", threshold=threshold)
