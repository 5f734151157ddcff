from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

import ray_pipelines as rp
from ray_pipelines.engine.batching import collate
from ray_pipelines.engine.transfer import pack, packed_bytes
from ray_pipelines.media.masks import decode_mask
from tests.cases.vision import SAM, picture
from tests.closeness import assert_close

Model = Callable[[str], str]
TASK = "mask-generation"


def by_content(result: list[dict]) -> list[Any]:
    return sorted((entry["score"], tuple(entry["box"].values()), entry["mask"]["counts"].tolist()) for entry in result)


def masks(model: Model, **parameters: Any) -> list[dict]:
    (result,) = rp.pipeline(TASK, model=model("sam"), device="cpu", **SAM, **parameters).run([picture((64, 40))])
    return result


def test_boxes_are_those_of_the_masks(model: Model) -> None:
    result = masks(model)
    assert len(result) > 1
    for entry in result:
        rows, columns = decode_mask(entry["mask"]).nonzero()
        assert list(entry["box"].values()) == [columns.min(), rows.min(), columns.max(), rows.max()]


@pytest.mark.parametrize("points_per_batch", (1, 7, None))
def test_points_per_batch_changes_nothing(points_per_batch: int | None, model: Model) -> None:
    assert_close(by_content(masks(model, points_per_batch=points_per_batch)), by_content(masks(model)))


def test_each_crop_is_embedded_once_and_not_while_preprocessing(model: Model) -> None:
    spec = rp.pipeline(TASK, model=model("sam"), device="cpu", **SAM, crops_n_layers=1, points_per_batch=3)
    steps = spec._runner().steps
    seen: list[int] = []
    steps.pipe.model.vision_encoder.register_forward_hook(lambda module, args, output: seen.append(1))
    chunks = list(steps.preprocess(picture((64, 40))))
    assert (len(chunks), len(seen)) == (5, 0)
    assert all(isinstance(output, torch.Tensor) for output in steps.forward(chunks[0]).values())
    assert len(seen) == 1


def test_grids_may_differ_by_layer_where_transformers_fails(model: Model) -> None:
    folder, image = model("sam"), picture((64, 40))
    pipe = transformers.pipeline(TASK, model=folder, device="cpu")
    arguments = SAM | {"points_per_crop": 6}
    with pytest.raises(RuntimeError, match="equal size"):
        pipe(image, **arguments, crops_n_layers=1, crop_n_points_downscale_factor=2)

    def points(**parameters: Any) -> list[torch.Tensor]:
        spec = rp.pipeline(TASK, model=folder, device="cpu", **parameters)
        return [chunk["input_points"] for chunk in spec._runner().steps.preprocess(image)]

    layers = {"crops_n_layers": 1, "crop_n_points_downscale_factor": 2}
    both = points(points_per_crop=6, **layers)
    expected = points(points_per_crop=6) + points(points_per_crop=3, crops_n_layers=1)[1:]
    assert [grid.shape[1] for grid in both] == [36, 9, 9, 9, 9]
    assert all(torch.equal(grid, other) for grid, other in zip(both, expected, strict=True))
    (result,) = rp.pipeline(TASK, model=folder, device="cpu", **arguments, **layers).run([image])
    assert result and not isinstance(result, rp.RowError)


def test_every_layer_needs_a_point() -> None:
    with pytest.raises(rp.ConfigError, match="points_per_crop: expected at least"):
        rp.pipeline(TASK, model="org/m", points_per_crop=3, crops_n_layers=2, crop_n_points_downscale_factor=2)


def test_crops_of_several_rows_are_embedded_together_and_each_once(model: Model) -> None:
    images = [picture((64, 40)), picture((40, 64)), picture((64, 40))]
    together = rp.pipeline(TASK, model=model("sam"), device="cpu", **SAM, crops_n_layers=1)
    seen: list[int] = []
    encoder = together._runner().steps.pipe.model.vision_encoder
    encoder.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    results = together.run(images, on_error="raise")
    # Of the first batch, one crop is embedded alone too, to see that the batch changes nothing.
    assert seen == [15, 1]
    alone = rp.pipeline(TASK, model=model("sam"), device="cpu", batch_size=1, **SAM, crops_n_layers=1)
    assert_close(results, alone.run(images, on_error="raise"))


def test_no_more_crops_are_embedded_at_once_than_memory_is_meant_for(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = rp.pipeline(TASK, model=model("sam"), device="cpu", **SAM, crops_n_layers=1)
    steps, seen = spec._runner().steps, []
    steps.pipe.model.vision_encoder.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    chunks = list(steps.preprocess(picture((64, 40))))
    expected = steps.forward(collate(chunks, steps.padding))
    pixels = chunks[0]["pixel_values"][0, 0].numel()
    monkeypatch.setattr("ray_pipelines.engine.pipelines.mask_generation.ENCODED_PIXELS", 2 * pixels + 1)
    assert_close(
        steps.forward(collate(chunks, steps.padding))["iou_scores"][3].tolist(), expected["iou_scores"][3].tolist()
    )
    assert seen == [5, 2, 2, 1]


def test_run_lengths_cross_stages_and_never_masks(model: Model) -> None:
    image = picture((640, 480))
    steps = rp.pipeline(TASK, model=model("sam"), device="cpu", **SAM)._runner().steps
    (chunk,) = steps.preprocess(image)
    pixels = chunk["pixel_values"].nbytes
    assert packed_bytes(pack(chunk)) < pixels + 1000
    output = steps.forward(chunk)
    num_masks, num_runs = len(output["num_counts"]), int(output["num_counts"].sum())
    assert num_masks == 75
    assert packed_bytes(pack(output)) < 4 * num_runs + 40 * num_masks + 100
    assert packed_bytes(pack(output)) < num_masks * image.width * image.height * 4 / 100
    whole_grid = rp.pipeline(TASK, model=model("sam"), device="cpu")._runner().steps
    (chunk,) = whole_grid.preprocess(image)
    assert chunk["input_points"].shape[1] == 1024
    assert packed_bytes(pack(chunk)) < pixels + 20_000


def test_pictures_that_cannot_be_cropped_or_resized_say_so(model: Model) -> None:
    pictures = [picture((1, 1)), picture((300, 1)), picture((30, 30))]
    small, strip, good = rp.pipeline("mask-generation", model("sam"), device="cpu", crops_n_layers=1).run(pictures)
    assert "cannot process an image of 1 x 1 pixels" in small.message
    assert "cannot process an image of 300 x 1 pixels" in strip.message
    assert isinstance(good, list)
