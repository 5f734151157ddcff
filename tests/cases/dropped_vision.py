"""Cases of the tasks about images that transformers 5 dropped, with what transformers 4.57.6 made of them.

The items and their results come from `tests/golden/vision.json`; see `tests/golden/record_vision.py`.
"""

from __future__ import annotations

import base64
import functools
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from ray_pipelines import tasks
from ray_pipelines.media.image import encode_image
from tests.cases import Case

NOT_AN_IMAGE = b"not an image"
FILE = Path(__file__).parents[1] / "golden" / "vision.json"


@functools.cache
def golden() -> dict[str, Any]:
    """The file of recorded results."""
    loaded: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return loaded


def picture(encoded: str) -> Image.Image:
    """The image of a PNG in base64."""
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def recorded_items(name: str) -> list[Any]:
    """The items of a recorded case, as the pipelines take them."""
    images = [picture(encoded) for encoded in golden()["images"]]
    items = [{**item, "image": images[item["image"]]} for item in golden()["cases"][name]["items"]]
    return items if "question" in items[0] else [item["image"] for item in items]


def recorded_results(name: str) -> list[Any]:
    """The results of a recorded case, in our shape; images without the padding that 4.57.6 left in them."""
    case = golden()["cases"][name]
    task = tasks.get(case["task"])
    if task.name != "image-to-image":
        return [task.to_result(result, tasks.validate_parameters(task, {})) for result in case["results"]]
    pairs = zip(recorded_items(name), case["results"], strict=True)
    return [encode_image(picture(made).crop((0, 0, 2 * image.width, 2 * image.height))) for image, made in pairs]


def _expected(name: str) -> Callable[[Path, Any], Any]:
    return lambda folder, item: recorded_results(name)[recorded_items(name).index(item)]


def _recorded(name: str, *, bad_item: Any = NOT_AN_IMAGE) -> Case:
    case = golden()["cases"][name]
    return Case(
        f"4.57-{name}",
        case["task"],
        case["model"],
        functools.partial(recorded_items, name),
        case["parameters"],
        expected=_expected(name),
        bad_item=bad_item,
    )


NO_QUESTION = {"image": Image.new("RGB", (30, 30))}
BAD_ITEMS: dict[str, Any] = {"visual-question-answering": NO_QUESTION}

CASES = [
    _recorded(name, bad_item=BAD_ITEMS.get(case["task"], NOT_AN_IMAGE))
    for name, case in golden()["cases"].items()
    if name != "blip2-vqa"
]
