"""What decoding may cost: part of the job file, kept here because everything in this package needs it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["MediaLimits"]


class MediaLimits(BaseModel):
    """What a row's media may cost to decode; over it, the row is a dead letter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_pixels: int = Field(89_478_485, gt=0, description="Pixels of one image, or of one frame of a video.")
    max_taken_pixels: int = Field(
        300_000_000,
        gt=0,
        description="Pixels of all frames that a model looks at, of all videos of a row; they are 3 bytes each.",
    )
    max_seconds: float = Field(4 * 3600, gt=0, description="Seconds of one recording or video.")
    max_frames: int = Field(1_000_000, gt=0, description="Frames of one video.")
    max_bytes: int = Field(1 << 30, gt=0, description="Bytes of one encoded image, recording or video.")
