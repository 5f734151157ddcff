"""The inputs that audio tasks share."""

from __future__ import annotations

from ray_pipelines.tasks import Field

AUDIO_FIELDS = (
    Field(
        "audio",
        "audio",
        "Encoded bytes, a {bytes, path} or {array, sampling_rate} struct, a path or URI, or samples.",
    ),
    Field(
        "sampling_rate",
        "number",
        "Samples per second, where `audio` holds bare samples; unset, they are at the model's own rate.",
        required=False,
    ),
)
