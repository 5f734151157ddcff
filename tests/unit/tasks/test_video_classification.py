from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import transformers

import ray_pipelines as rp
from ray_pipelines.config import MediaLimits
from ray_pipelines.media.video import Video
from tests.cases.vision import all_frames, video
from tests.closeness import assert_close

Model = Callable[[str], str]
TASK = "video-classification"


def seen_frames(spec: rp.PipelineSpec, num_frames: int) -> list[int]:
    """The indices of the frames that the pipeline looks at, in a video of so many frames."""
    frames = (
        np.zeros((num_frames, 16, 16, 3), dtype=np.uint8) + np.arange(num_frames, dtype=np.uint8)[:, None, None, None]
    )
    pipe = spec._runner().steps.pipe
    inputs = pipe.preprocess(Video(frames, MediaLimits()), **pipe._preprocess_params)["pixel_values"]
    processor = pipe.video_processor
    levels = (inputs[0, :, 0, 0, 0] * processor.image_std[0] + processor.image_mean[0]) / processor.rescale_factor
    return [round(float(level)) for level in levels]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    (
        ({}, [0, 3, 6, 9]),
        ({"num_frames": 2}, [0, 6]),
        ({"frame_sampling_rate": 1}, [0, 1, 2, 3]),
        ({"frame_sampling_rate": 3}, [0, 3, 7, 11]),
        ({"frame_sampling_rate": 2, "num_frames": 6}, [0, 2, 4, 6, 8, 11]),
    ),
)
def test_frames_are_spread_or_taken_at_the_rate(parameters: dict, expected: list[int], model: Model) -> None:
    assert seen_frames(rp.pipeline(TASK, model=model("videomae"), device="cpu", **parameters), 12) == expected


def test_frame_sampling_rate_counts_where_transformers_ignores_it(model: Model) -> None:
    folder, data = model("videomae"), video(12, seed=5)
    pipe = transformers.pipeline(TASK, model=folder, device="cpu")
    frames = all_frames(data)
    spread, *_ = rp.pipeline(TASK, model=folder, device="cpu").run([data])
    assert_close(pipe.run_single(frames, {}, {}, {}), spread)
    assert_close(pipe.run_single(frames, {"frame_sampling_rate": 2}, {}, {}), spread)
    rated, *_ = rp.pipeline(TASK, model=folder, device="cpu", frame_sampling_rate=2).run([data])
    assert_close(pipe.run_single(frames[[0, 2, 4, 7]], {}, {}, {}), rated)
    assert abs(rated[0]["score"] - spread[0]["score"]) > 1e-3


@pytest.mark.parametrize(("parameters", "needed"), (({}, 4), ({"frame_sampling_rate": 2}, 8), ({"num_frames": 9}, 9)))
def test_a_short_video_fails_alone(parameters: dict, needed: int, model: Model) -> None:
    spec = rp.pipeline(TASK, model=model("videomae"), device="cpu", **parameters)
    short, long = spec.run([video(3), video(20)]) if "num_frames" not in parameters else (*spec.run([video(3)]), [])
    assert isinstance(short, rp.RowError) and f"has 3 frames; {needed} are needed" in short.message
    assert not isinstance(long, rp.RowError)


def test_decoded_frames_are_taken_too(model: Model) -> None:
    data = video(8)
    encoded, decoded = rp.pipeline(TASK, model=model("videomae"), device="cpu").run([data, all_frames(data)])
    assert_close(decoded, encoded)
