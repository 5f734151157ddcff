from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import ray_pipelines as rp
from ray_pipelines.media.masks import decode_mask
from tests.cases.vision import pictures

Model = Callable[[str], str]


def test_semantic_masks_divide_the_image_among_labels(model: Model) -> None:
    spec = rp.pipeline("image-segmentation", model=model("segformer"), device="cpu", subtask="semantic")
    images = pictures()
    for image, result in zip(images, spec.run(images), strict=True):
        masks = np.stack([decode_mask(segment["mask"]) for segment in result])
        assert masks.shape[1:] == (image.height, image.width)
        assert (masks.sum(axis=0) == 1).all()
        assert all(segment["score"] is None for segment in result)


def test_a_subtask_that_the_model_cannot_do_fails_by_name(model: Model) -> None:
    spec = rp.pipeline("image-segmentation", model=model("segformer"), device="cpu", subtask="panoptic")
    (result,) = spec.run(pictures()[:1])
    assert isinstance(result, rp.RowError) and "Subtask panoptic is not supported" in result.message


def test_an_unknown_subtask_is_refused() -> None:
    with pytest.raises(rp.ConfigError, match=r"parameters\.subtask: .*panoptic"):
        rp.pipeline("image-segmentation", model="org/model", subtask="panoptical")
