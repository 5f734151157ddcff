from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

import ray_pipelines as rp
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
