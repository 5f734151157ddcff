"""video-classification of decoded frames: no torchcodec, and `frame_sampling_rate` is honoured."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import transformers
from transformers.video_utils import VideoMetadata

from ray_pipelines.engine.memory import is_out_of_memory, raise_if_device_lost
from ray_pipelines.errors import InvalidInput
from ray_pipelines.media.video import Video

__all__ = ["VideoClassificationPipeline"]


class VideoClassificationPipeline(transformers.VideoClassificationPipeline):  # type: ignore[misc]
    """Labels of a `ray_pipelines.media.video.Video`."""

    def preprocess(
        self, video: Video, num_frames: int | None = None, frame_sampling_rate: int | None = None
    ) -> dict[str, Any]:
        """The inputs of the frames that the model looks at.

        Args:
            video: Any number of frames.
            num_frames: How many to look at; None takes the model's own number.
            frame_sampling_rate: Take every n-th frame from the start; None spreads them over the video, or, for models
                that only have an image processor, takes every frame from the start.

        Raises:
            InvalidInput: The video is too short.
        """
        num_frames = num_frames or self._num_frames()
        if frame_sampling_rate is None and self.video_processor is None:
            frame_sampling_rate = 1
        if frame_sampling_rate is not None:
            choose = partial(_from_the_start, num_frames=num_frames, rate=frame_sampling_rate)
        else:
            choose = partial(self._spread, video=video, num_frames=num_frames)
        frames = video.sample(choose)
        if self.video_processor is None:
            inputs = self.image_processor(list(frames), return_tensors="pt")
        else:
            inputs = self.video_processor(frames, do_sample_frames=False, return_tensors="pt")
        return dict(inputs.to(self.dtype))

    def _forward(self, model_inputs: dict[str, Any]) -> Any:
        """The model's outputs.

        Raises:
            InvalidInput: The model fails on a number of frames that it was not made for.
        """
        try:
            return super()._forward(model_inputs)
        except RuntimeError as error:
            num_frames = next(iter(model_inputs.values())).shape[1]
            if is_out_of_memory(error) or self._own_num_frames in (None, num_frames):
                raise
            raise_if_device_lost(error)
            raise InvalidInput(
                f"num_frames: this model takes {self._own_num_frames} frames; got {num_frames}."
            ) from error

    @property
    def _own_num_frames(self) -> int | None:
        config = self.model.config
        return getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", None)

    def _num_frames(self) -> int:
        num_frames = self._own_num_frames
        if num_frames is None:
            config = type(self.model.config).__name__
            raise ValueError(f"num_frames: {config} does not say how many frames to take; set it.")
        return int(num_frames)

    def _spread(self, total: int, *, video: Video, num_frames: int) -> np.ndarray:
        """The indices that the model's own video processor chooses."""
        _check_length(total, num_frames, num_frames)
        metadata = VideoMetadata(
            total_num_frames=total, fps=video.frame_rate, height=video.height, width=video.width, frames_indices=None
        )
        return np.asarray(self.video_processor.sample_frames(metadata=metadata, num_frames=num_frames))


def _from_the_start(total: int, *, num_frames: int, rate: int) -> np.ndarray:
    """`num_frames` indices, spread over the first `num_frames * rate` frames.

    Source: `VideoClassificationPipeline.preprocess` of transformers 4.57.6, which hands on fewer frames where the video
    is too short.
    """
    _check_length(total, num_frames * rate, num_frames)
    return np.linspace(0, num_frames * rate - 1, num=num_frames, dtype=np.int64)


def _check_length(total: int, needed: int, num_frames: int) -> None:
    if total < needed:
        raise InvalidInput(
            f"video: has {total:,} frames; {needed:,} are needed to choose {num_frames:,} from. Set num_frames or "
            "frame_sampling_rate lower."
        )
