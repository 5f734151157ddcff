from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from transformers.models.sam.image_processing_sam import _mask_to_rle

from ray_pipelines.arrow import RLE_TYPE
from ray_pipelines.media.masks import decode_mask, encode_mask

masks = hnp.arrays(bool, st.tuples(st.integers(0, 9), st.integers(0, 9)))


@settings(deadline=None)
@given(masks)
def test_round_trip_gives_the_mask_back(mask: np.ndarray) -> None:
    rle = encode_mask(mask)
    assert np.array_equal(decode_mask(rle), mask)
    (stored,) = pa.array([rle], type=RLE_TYPE).to_pylist()
    assert np.array_equal(decode_mask(stored), mask)


@settings(deadline=None)
@given(masks.filter(lambda mask: mask.size > 0))
def test_runs_are_those_of_segment_anything(mask: np.ndarray) -> None:
    (expected,) = _mask_to_rle(torch.from_numpy(mask.copy())[None])
    rle = encode_mask(mask)
    assert (rle["size"], rle["counts"].tolist()) == (expected["size"], expected["counts"])


def test_runs_go_down_the_columns_and_start_with_zeros() -> None:
    assert encode_mask(np.array([[0, 1, 1], [0, 0, 1]]))["counts"].tolist() == [2, 1, 1, 2]
    assert encode_mask(np.ones((2, 3)))["counts"].tolist() == [0, 6]
    assert encode_mask(np.zeros((2, 3)))["counts"].tolist() == [6]


@pytest.mark.parametrize("counts", ([5], [7], [7, -1], []))
def test_runs_that_do_not_fill_the_mask_are_refused(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="expected runs of 6 pixels"):
        decode_mask({"size": [2, 3], "counts": counts})


def test_a_mask_has_two_axes() -> None:
    with pytest.raises(ValueError, match=r"expected \[height, width\]"):
        encode_mask(np.zeros((1, 2, 3)))
