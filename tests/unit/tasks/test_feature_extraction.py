"""Pooled, normalised and half-precision features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import ray_pipelines as rp
from ray_pipelines.arrow import results_to_arrow
from tests.cases.media import TEXTS

Model = Callable[[str], str]


def features(model: Model, **parameters: Any) -> list[np.ndarray]:
    return rp.pipeline("feature-extraction", model=model("bert-features"), batch_size=4, **parameters).run(TEXTS)


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [
        ("mean", lambda tokens: tokens.mean(axis=0)),
        ("max", lambda tokens: tokens.max(axis=0)),
        ("cls", lambda tokens: tokens[0]),
        ("last", lambda tokens: tokens[-1]),
    ],
)
def test_pooling_sees_the_row_s_own_tokens_only(pooling: str, pool: Callable[[Any], Any], model: Model) -> None:
    tokens = features(model)
    assert {len(row) for row in tokens} != {len(tokens[0])}
    for pooled, row in zip(features(model, pooling=pooling), tokens, strict=True):
        np.testing.assert_allclose(pooled, pool(row), atol=1e-5)


def test_normalised_vectors_have_length_1(model: Model) -> None:
    for row in features(model, pooling="mean", normalize=True):
        assert row.dtype == np.float32
        assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("pooling", ["none", "mean"])
def test_half_precision_on_request(pooling: str, model: Model) -> None:
    spec = rp.pipeline("feature-extraction", model=model("bert-features"), pooling=pooling, precision="float16")
    results = spec.run(TEXTS)
    assert all(row.dtype == np.float16 for row in results)
    assert spec.task.result_type is not None
    number = pa.list_(pa.float16())
    result_type = spec.task.result_type(spec.task.parameters(pooling=pooling, precision="float16"))
    assert result_type == (number if pooling == "mean" else pa.list_(number))
    column, errors = results_to_arrow(results, result_type)
    assert errors == [None] * len(TEXTS)
    np.testing.assert_array_equal(np.array(column.to_pylist()[0], dtype=np.float16), results[0])
