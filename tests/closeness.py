"""Whether two results are the same: labels, spans and texts exactly, numbers within a tolerance."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from ray_pipelines.media.masks import decode_mask

MASK_TOLERANCE = 1e-3
"""Largest share of a mask's pixels that may differ: a rounding error can move a pixel across the mask's edge."""


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-4, where: str = "result") -> None:
    """Fails where `actual` is not `expected`, and names the place."""
    if isinstance(expected, dict) and set(expected) == {"size", "counts"}:
        assert list(actual["size"]) == list(expected["size"]), f"{where}: sizes differ"
        share = float((decode_mask(actual) != decode_mask(expected)).mean())
        assert share <= MASK_TOLERANCE, f"{where}: {share:.2%} of the pixels differ"
    elif isinstance(expected, dict):
        assert isinstance(actual, dict) and set(actual) == set(expected), f"{where}: {actual!r} is not {expected!r}"
        for key in expected:
            assert_close(actual[key], expected[key], tolerance, f"{where}.{key}")
    elif isinstance(expected, list | tuple) and not isinstance(actual, np.ndarray):
        assert len(actual) == len(expected), f"{where}: {actual!r} is not {expected!r}"
        for index, (one, other) in enumerate(zip(actual, expected, strict=True)):
            assert_close(one, other, tolerance, f"{where}[{index}]")
    elif isinstance(expected, np.ndarray) or isinstance(actual, np.ndarray):
        one, other = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
        assert one.shape == other.shape, f"{where}: shape {one.shape} is not {other.shape}"
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance, err_msg=where)
    elif isinstance(expected, bytes) and expected.startswith(b"\x89PNG"):
        one, other = (np.asarray(Image.open(io.BytesIO(png)), dtype=np.int16) for png in (actual, expected))
        assert one.shape == other.shape, f"{where}: shape {one.shape} is not {other.shape}"
        assert abs(one - other).max() <= 1, f"{where}: differs by more than a rounding error can make"
    elif isinstance(expected, float | np.floating):
        assert abs(float(actual) - float(expected)) <= tolerance, f"{where}: {actual!r} is not {expected!r}"
    else:
        assert actual == expected, f"{where}: {actual!r} is not {expected!r}"
