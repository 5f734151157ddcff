from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import torch
import transformers
from PIL import Image

import ray_pipelines as rp
from ray_pipelines import tasks
from ray_pipelines.arrow import results_to_arrow
from ray_pipelines.engine.pipelines.depth_estimation import DepthEstimationPipeline
from ray_pipelines.media.draw import depth_to_array, depth_to_image
from tests.cases.vision import picture, pictures

Model = Callable[[str], str]


def picture_of(result: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(result["depth"]["bytes"])))


def test_depth_and_picture_have_the_size_of_the_image(model: Model) -> None:
    spec = rp.pipeline("depth-estimation", model=model("dpt"), device="cpu")
    for image, result in zip(pictures(), spec.run(pictures()), strict=True):
        assert depth_to_array(result).shape == picture_of(result).shape == (image.height, image.width)
        assert depth_to_image(result).size == image.size


def test_constant_depth_is_a_black_picture_where_transformers_divides_by_zero(model: Model) -> None:
    outputs = {"predicted_depth": torch.zeros(1, 4, 4), "target_size": (6, 8)}
    theirs = transformers.pipeline("depth-estimation", model=model("dpt"), device="cpu")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        theirs.postprocess(transformers.utils.ModelOutput(outputs))
    assert any("invalid value" in str(warning.message) for warning in caught)
    ours = transformers.pipeline(
        "depth-estimation", model=model("dpt"), device="cpu", pipeline_class=DepthEstimationPipeline
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = ours.postprocess(transformers.utils.ModelOutput(outputs))
    assert not np.asarray(result["depth"]).any()
    assert torch.equal(result["predicted_depth"], torch.zeros(6, 8))


def test_depth_of_one_pixel_in_height_or_width_has_both_axes(model: Model) -> None:
    images = [picture(size) for size in ((1, 1), (20, 1), (1, 20))]
    results = rp.pipeline("depth-estimation", model("dpt"), device="cpu").run(images)
    for image, result in zip(images, results, strict=True):
        assert depth_to_array(result).shape == picture_of(result).shape == (image.height, image.width)


def test_a_strip_that_cannot_be_resized_says_so(model: Model) -> None:
    bad, good = rp.pipeline("depth-estimation", model("depth-anything"), device="cpu").run(
        [picture((300, 1)), picture((30, 30))]
    )
    assert "cannot process an image of 300 x 1 pixels" in bad.message
    assert depth_to_array(good).shape == (30, 30)


def test_a_model_in_bfloat16_gives_float32(model: Model) -> None:
    spec = rp.pipeline("depth-estimation", model=model("dpt"), device="cpu", dtype="bfloat16")
    (result,) = spec.run([picture((30, 30))])
    assert depth_to_array(result).shape == (30, 30)


def test_float16_and_no_picture_on_request(model: Model) -> None:
    parameters = {"precision": "float16", "with_picture": False}
    spec = rp.pipeline("depth-estimation", model=model("dpt"), device="cpu", **parameters)
    result_type = spec.task.result_type(tasks.validate_parameters(spec.task, parameters))
    assert result_type.field("predicted_depth").type.field("data").type == pa.list_(pa.float16())
    column, errors = results_to_arrow(spec.run(pictures()), result_type)
    assert errors == [None] * len(pictures())
    full = rp.pipeline("depth-estimation", model=model("dpt"), device="cpu").run(pictures())
    for half, whole in zip(column.to_pylist(), full, strict=True):
        assert half["depth"] is None
        np.testing.assert_allclose(
            half["predicted_depth"]["data"], whole["predicted_depth"]["data"], rtol=2e-3, atol=1e-6
        )
