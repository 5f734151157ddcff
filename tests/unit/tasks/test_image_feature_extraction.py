from __future__ import annotations

from collections.abc import Callable

import numpy as np

import ray_pipelines as rp
from tests.cases.vision import pictures

Model = Callable[[str], str]


def test_maps_of_a_convolutional_model_are_read_row_by_row(model: Model) -> None:
    import transformers

    folder = model("convnext-features")
    (result,) = rp.pipeline("image-feature-extraction", model=folder, device="cpu").run(pictures()[:1])
    maps = np.asarray(transformers.pipeline("image-feature-extraction", model=folder, device="cpu")(pictures()[0]))
    hidden, height, width = maps[0].shape
    assert result.dtype == np.float32 and result.shape == (height * width, hidden)
    np.testing.assert_allclose(result[width + 2], maps[0][:, 1, 2], atol=1e-5)


def test_only_the_wanted_output_leaves_the_device(model: Model) -> None:
    for pool, name in ((True, "pooler_output"), (False, "last_hidden_state")):
        spec = rp.pipeline("image-feature-extraction", model=model("vit-features"), device="cpu", pool=pool)
        steps = spec._runner().steps
        (chunk,) = steps.preprocess(pictures()[0])
        assert list(steps.forward(chunk)) == [name]


def test_pooling_without_a_pooler_is_refused_by_name(model: Model) -> None:
    spec = rp.pipeline("image-feature-extraction", model=model("segformer"), device="cpu", pool=True)
    results = spec.run(pictures())
    assert all("has no pooler" in result.message for result in results)
