from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ray_pipelines.media.draw import depth_to_array, depth_to_image, draw_boxes, masks_to_image
from ray_pipelines.media.masks import encode_mask


def mask(height: int, width: int, rows: slice, columns: slice) -> dict:
    pixels = np.zeros((height, width), dtype=bool)
    pixels[rows, columns] = True
    return {"mask": encode_mask(pixels), "score": 0.5, "label": "a"}


def test_each_mask_has_its_colour_and_small_ones_lie_on_top() -> None:
    small, large = mask(20, 30, slice(5, 9), slice(5, 9)), mask(20, 30, slice(0, 15), slice(0, 15))
    picture = masks_to_image([small, large], (30, 20))
    assert picture.size == (30, 20)
    inner, outer, nothing = (picture.getpixel(at) for at in ((6, 6), (12, 12), (25, 18)))
    assert len({inner, outer, nothing}) == 3 and nothing == (0, 0, 0)


def test_a_result_without_masks_is_a_black_picture() -> None:
    assert not np.asarray(masks_to_image([], (30, 20))).any()


def test_boxes_are_drawn_on_a_copy() -> None:
    image = Image.new("L", (60, 50))
    box = {"xmin": 10, "ymin": 30, "xmax": 50, "ymax": 45}
    outside = {"xmin": -5, "ymin": 60, "xmax": 20, "ymax": 47}
    picture = draw_boxes(image, [{"box": box, "score": 0.9, "label": "cat"}, {"box": outside, "score": 0.5}])
    assert picture.mode == "RGB" and picture.size == image.size
    assert not np.asarray(image).any()
    assert picture.getpixel((10, 40)) == picture.getpixel((50, 40)) != (0, 0, 0)
    assert picture.getpixel((45, 43)) == (0, 0, 0)


def depth(values: np.ndarray) -> dict:
    return {"predicted_depth": {"shape": list(values.shape), "data": values.ravel()}, "depth": None}


def test_heat_rises_with_depth() -> None:
    values = np.linspace(0, 5, 12, dtype=np.float32).reshape(3, 4)
    assert np.array_equal(depth_to_array(depth(values)), values)
    heat = np.asarray(depth_to_image(depth(values))).astype(int).sum(axis=-1).ravel()
    assert (np.diff(heat) > 0).all()


@pytest.mark.parametrize("value", (0.0, 3.0, np.nan))
def test_constant_or_missing_depth_is_dark(value: float) -> None:
    picture = depth_to_image(depth(np.full((3, 4), value, dtype=np.float32)))
    assert picture.size == (4, 3) and picture.getpixel((0, 0)) == (0, 0, 20)
