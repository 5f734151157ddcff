"""Tensors in few bytes, and the same tensors again."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch

from ray_pipelines.arrow import TENSORS_TYPE
from ray_pipelines.engine.compact import decode, encode
from ray_pipelines.engine.transfer import pack, unpack

LIMITS = [(2 ** (bits - 1) - 1, -(2 ** (bits - 1))) for bits in (8, 16, 32, 64)]

TENSORS = {
    "a mask": torch.ones(1, 500, dtype=torch.int64),
    "no values": torch.zeros(1, 0, 4),
    "one value": torch.tensor(3.0),
    "zeros of both signs": torch.tensor([0.0, -0.0] * 20),
    "not a number": torch.full((20,), float("nan")),
    "half precision": torch.randn(3, 40, dtype=torch.bfloat16),
    "truths": torch.arange(40) % 3 == 0,
    "complex": torch.ones(20, dtype=torch.complex128),
    "a view": torch.arange(100).reshape(10, 10)[:, 3:9],
    **{f"up to {high}": torch.tensor([high, low, 0] * 10) for high, low in LIMITS},
    **{f"beyond {high}": torch.tensor([high + 1, low - 1, 0] * 10) for high, low in LIMITS[:-1]},
    "bytes": torch.arange(256, dtype=torch.int32),
}


@pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS)
def test_every_tensor_comes_back_bit_by_bit(tensor: torch.Tensor) -> None:
    column = pa.array([[pack({"values": tensor})]], type=TENSORS_TYPE)
    back = unpack(column[0].as_py()[0])["values"]
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    content = [t.contiguous().reshape(-1).view(torch.uint8).tolist() if t.numel() else [] for t in (tensor, back)]
    assert content[0] == content[1]


@pytest.mark.parametrize(
    ("tensor", "num_bytes"),
    [
        (torch.ones(1, 500, dtype=torch.int64), 8),
        (torch.arange(500) + 29_000, 1000),
        (torch.arange(500) + 60_000, 2000),
        (torch.arange(500) % 2, 500),
        (torch.arange(256), 256),
        (torch.randn(10, 10), 400),
    ],
)
def test_values_take_no_more_bytes_than_they_need(tensor: torch.Tensor, num_bytes: int) -> None:
    assert len(encode(tensor)[1]) == num_bytes


def test_what_comes_back_can_be_written_to() -> None:
    for tensor in (torch.ones(50), torch.arange(50), torch.randn(50)):
        dtype, data = encode(tensor)
        back = decode(dtype, tensor.shape, bytes(data))
        back[0] = 7
        assert back[0] == 7 and back[1] == tensor[1]
