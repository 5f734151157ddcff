"""Masks in COCO's run-length encoding, uncompressed: a few kilobytes in place of a byte per pixel.

The runs go down the columns, from left to right, and the first one is of zeros (its length is 0 where the mask starts
with a one). `pycocotools` reads the same structure through `frPyObjects`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["decode_mask", "encode_mask"]


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """The run-length encoding of `mask`, `bool[height, width]`, as `arrow.RLE_TYPE` holds it.

    >>> rle = encode_mask(np.array([[True, False], [True, True]]))
    >>> rle["size"], rle["counts"].tolist()
    ([2, 2], [0, 2, 1, 1])

    Raises:
        ValueError: The mask does not have two axes.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"mask: expected [height, width]; got an array of shape {list(mask.shape)}.")
    height, width = mask.shape
    pixels = mask.astype(bool, copy=False).ravel(order="F")
    starts = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    edges = np.concatenate(([0], starts, [pixels.size]))
    counts = np.diff(edges) if pixels.size else edges[:0]
    if pixels.size and pixels[0]:
        counts = np.concatenate(([0], counts))
    return {"size": [height, width], "counts": counts.astype(np.int32)}


def decode_mask(rle: Mapping[str, Any]) -> np.ndarray:
    """The mask, `bool[height, width]`, of a run-length encoding.

    >>> decode_mask({"size": [2, 2], "counts": [0, 2, 1, 1]}).tolist()
    [[True, False], [True, True]]

    Raises:
        ValueError: The runs do not fill the size.
    """
    height, width = (int(side) for side in rle["size"])
    counts = np.asarray(rle["counts"], dtype=np.int64)
    if (counts < 0).any() or counts.sum() != height * width:
        raise ValueError(f"rle: expected runs of {height * width:,} pixels; got {int(counts.sum()):,}.")
    pixels = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return pixels.reshape((height, width), order="F")
