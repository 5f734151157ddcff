"""What decoding may cost: part of the job file, kept here because everything in this package needs it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from ray_pipelines.errors import MediaError

__all__ = ["MediaLimits"]


class MediaLimits(BaseModel):
    """What a row's media may cost to decode; over it, the row is a dead letter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_pixels: int = Field(89_478_485, gt=0, description="Pixels of one image, or of one frame of a video.")
    max_aspect_ratio: float = Field(
        1000,
        ge=1,
        description="Longer side of an image, or of a video's frames, divided by the shorter one: models that scale "
        "the shorter one to their size make the longer one so many times as long.",
    )
    max_taken_pixels: int = Field(
        300_000_000,
        gt=0,
        description="Pixels of all frames that a model looks at, of all videos of a row; they are 3 bytes each.",
    )
    max_seconds: float = Field(4 * 3600, gt=0, description="Seconds of one recording or video.")
    max_frames: int = Field(1_000_000, gt=0, description="Frames of one video.")
    max_bytes: int = Field(1 << 30, gt=0, description="Bytes of one encoded image, recording or video.")

    def check_sides(self, what: str, width: int, height: int) -> None:
        """Refuses pictures that are too long for their width.

        Raises:
            MediaError: They are.
        """
        if max(width, height) > min(width, height) * self.max_aspect_ratio:
            raise MediaError(
                f"{what}: has {width:,} x {height:,} pixels; the limit is {self.max_aspect_ratio:g} times as many on "
                "one side as on the other (limits.max_aspect_ratio)."
            )
