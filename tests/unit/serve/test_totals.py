"""All media of a request together."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from ray_pipelines import tasks
from ray_pipelines.serve.config import ClientLimits
from ray_pipelines.serve.refusals import Refused
from ray_pipelines.serve.totals import check_totals
from tests.cases.vision import video

LIMITS = ClientLimits(
    max_seconds=10, max_total_pixels=1000, max_total_seconds=12, max_total_frame_pixels=20 * 1536
)  # fmt: skip


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 20)).save(file, "PNG")
    return file.getvalue()


def recording(seconds: float, kind: str = "FLAC") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(int(seconds * 8000), dtype=np.int16), 8000, format=kind)
    return file.getvalue()


def chat(*parts: tuple[str, bytes]) -> dict[str, Any]:
    content = [{"type": "text", "text": "Hello"}, *({"type": kind, "bytes": data} for kind, data in parts)]
    return {"text": [{"role": "user", "content": content}]}


@pytest.mark.parametrize(
    ("task", "row", "what"),
    (
        ("image-classification", {"image": picture()}, "1,000 pixels in all images of one request; got 1,200"),
        ("keypoint-matching", {"image_0": picture(), "image_1": picture()}, "1,000 pixels in all images"),
        (
            "automatic-speech-recognition",
            {"audio": recording(5)},
            "12 seconds of all recordings of one request; got 15",
        ),
        ("automatic-speech-recognition", {"audio": {"array": [0.0] * 5000, "sampling_rate": 1000}}, "12 seconds"),
        ("video-classification", {"video": video(10)}, "30,720 pixels in all frames of all videos"),
        ("image-text-to-text", chat(("image", picture())), "1,000 pixels in all images"),
        ("image-text-to-text", chat(("video", video(10))), "30,720 pixels in all frames"),
    ),
)
def test_media_are_bounded_together(task: str, row: dict[str, Any], what: str) -> None:
    check_totals(tasks.get(task), [row], LIMITS)
    with pytest.raises(Refused, match=what) as refused:
        check_totals(tasks.get(task), [row] * 3, LIMITS)
    assert refused.value.status == 413


def test_texts_have_no_media() -> None:
    check_totals(tasks.get("text-generation"), [{"text": "Hello"}, chat()] * 100, LIMITS)
