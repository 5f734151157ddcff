"""image-to-image: the image at its true size, also of one channel."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from PIL import Image

import ray_pipelines as rp
from ray_pipelines.arrow import IMAGE_TYPE, results_to_arrow
from ray_pipelines.engine import pipelines
from ray_pipelines.engine.hub import default_model
from ray_pipelines.engine.pipelines.image_to_image import ImageToImagePipeline
from tests.cases.dropped_vision import golden, picture, recorded_items

Model = Callable[[str], str]


def decode(result: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(result["bytes"]))


def test_transformers_knows_the_task_and_its_default_model_again(model: Model) -> None:
    pipelines.register()
    pipe = transformers.pipeline("image-to-image", model=model("swin2sr"), device="cpu")
    assert isinstance(pipe, ImageToImagePipeline)
    assert default_model("image-to-image") == ("caidas/swin2SR-classical-sr-x2-64", "cee1c92")


def test_padding_is_cut_off_that_transformers_left_in(model: Model) -> None:
    images = recorded_items("swin2sr")
    (index,) = [index for index, image in enumerate(images) if image.size == (20, 20)]
    assert picture(golden()["cases"]["swin2sr"]["results"][index]).size == (48, 48)
    results = rp.pipeline("image-to-image", model=model("swin2sr"), device="cpu").run(images)
    assert [decode(result).size for result in results] == [(2 * image.width, 2 * image.height) for image in images]


def test_images_of_one_padded_size_share_a_forward_and_keep_their_own_size(model: Model) -> None:
    images = [Image.new("RGB", size, "red") for size in ((17, 17), (20, 20), (23, 18), (16, 16))]
    results = rp.pipeline("image-to-image", model=model("swin2sr"), device="cpu").run(images)
    assert [decode(result).size for result in results] == [(34, 34), (40, 40), (46, 36), (32, 32)]


def test_a_level_that_a_batch_rounds_to_the_next_does_not_end_batches(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = rp.pipeline("image-to-image", model=model("swin2sr"), device="cpu")._runner()
    forward = runner.steps.forward

    def rounded(inputs: Any) -> Any:
        outputs = forward(inputs)
        if len(outputs["pixels"]) > 1:
            pixels = outputs["pixels"].int()
            outputs["pixels"] = (pixels + torch.where(pixels < 255, 1, -1)).to(torch.uint8)
        return outputs

    monkeypatch.setattr(runner.steps, "forward", rounded)
    images = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    assert len(list(runner.run(runner.steps.item_of_input(image) for image in images))) == 3
    assert runner.counters.max_size > 1


def test_a_model_of_one_channel_gets_and_gives_grey_images() -> None:
    config = transformers.Swin2SRConfig(
        image_size=16, num_channels=1, embed_dim=8, depths=(1,), num_heads=(2,), window_size=4, upscale=4
    )
    torch.manual_seed(0)
    processor = transformers.Swin2SRImageProcessor()
    net = transformers.Swin2SRForImageSuperResolution(config).eval()
    pipe = ImageToImagePipeline(model=net, image_processor=processor, device="cpu")
    image = recorded_items("swin2sr")[0].convert("RGB")
    made = pipe(image)
    assert made.mode == "L" and made.size == (4 * image.width, 4 * image.height)
    with torch.no_grad():
        expected = net(**processor(image.convert("L"), return_tensors="pt")).reconstruction[0, 0]
    pixels = (expected.clamp(0, 1) * 255).round().numpy()[: made.height, : made.width]
    np.testing.assert_allclose(np.asarray(made), pixels, atol=1)


def test_an_array_is_taken_as_well_as_an_image(model: Model) -> None:
    image = recorded_items("swin2sr")[0].convert("RGB")
    spec = rp.pipeline("image-to-image", model=model("swin2sr"), device="cpu")
    of_image, of_array = spec.run([image, np.asarray(image, dtype=np.float32)])
    assert decode(of_array).size == decode(of_image).size
    np.testing.assert_allclose(np.asarray(decode(of_array), float), np.asarray(decode(of_image), float), atol=1)


def test_an_image_of_a_few_pixels_fails_alone_with_the_reason(model: Model) -> None:
    good = Image.new("RGB", (8, 8))
    results = rp.pipeline("image-to-image", model=model("swin2sr"), device="cpu").run([good, Image.new("RGB", (2, 3))])
    assert decode(results[0]).size == (16, 16)
    assert isinstance(results[1], rp.RowError)
    assert results[1].message.startswith("image: Swin2SRImageProcessor cannot process an image of 2 x 3 pixels")


def test_head_mask_which_never_worked_is_refused() -> None:
    with pytest.raises(rp.ConfigError, match=r"parameters\.head_mask: unknown name"):
        rp.pipeline("image-to-image", model="org/nothing", head_mask=[1])


def test_results_are_images_as_datasets_hold_them(model: Model) -> None:
    results = rp.pipeline("image-to-image", model=model("swin2sr"), device="cpu").run(recorded_items("swin2sr")[:2])
    column, _ = results_to_arrow(results, IMAGE_TYPE)
    assert column.type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert column[0]["path"].as_py() is None
