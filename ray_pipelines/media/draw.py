"""Results turned back into what people look at: masks in colour, boxes on the image, a heat map of depth."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ray_pipelines.media.masks import decode_mask

__all__ = ["depth_to_array", "depth_to_image", "draw_boxes", "masks_to_image"]

GOLDEN_RATIO = 0.618034
HEAT = np.array([(0, 0, 20), (60, 10, 110), (170, 40, 100), (240, 110, 30), (255, 220, 90), (255, 255, 230)])


def masks_to_image(result: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> Image.Image:
    """The masks of an image-segmentation or mask-generation result, each in a colour of its own, on black.

    Larger masks are painted first, so that small ones on top of them stay visible.

    Args:
        result: A list of `{mask, ...}`.
        size: Width and height of the picture.
    """
    masks = [decode_mask(entry["mask"]) for entry in result]
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    for index in sorted(range(len(masks)), key=lambda index: -int(masks[index].sum())):
        pixels[masks[index]] = _color(index)
    return Image.fromarray(pixels)


def draw_boxes(image: Image.Image, result: Sequence[Mapping[str, Any]]) -> Image.Image:
    """A copy of the image in RGB with the boxes of a detection result, their labels and scores.

    Args:
        image: The picture that the boxes belong to.
        result: A list of `{box, score, label}`; `label` may be missing, as in mask-generation.
    """
    picture = image.convert("RGB")
    draw = ImageDraw.Draw(picture)
    line_width = max(1, round(max(picture.size) / 300))
    font_size = max(10, round(max(picture.size) / 40))
    colors: dict[Any, tuple[int, int, int]] = {}
    for index, entry in enumerate(result):
        color = colors.setdefault(entry.get("label", index), _color(len(colors)))
        box = entry["box"]
        left, right = sorted((box["xmin"], box["xmax"]))
        top, bottom = sorted((box["ymin"], box["ymax"]))
        draw.rectangle((left, top, right, bottom), outline=color, width=line_width)
        text = f"{entry.get('label', '')} {entry['score']:.2f}".strip()
        corner = (max(left, 0) + line_width + 1, max(top, 0) + line_width + 1)
        draw.rectangle(draw.textbbox(corner, text, font_size=font_size), fill=color)
        draw.text(corner, text, fill="black", font_size=font_size)
    return picture


def depth_to_array(result: Mapping[str, Any]) -> np.ndarray:
    """The depth of each pixel, `float32[height, width]`, of a depth-estimation result."""
    depth = result["predicted_depth"]
    return np.asarray(depth["data"], dtype=np.float32).reshape([int(side) for side in depth["shape"]])


def depth_to_image(result: Mapping[str, Any]) -> Image.Image:
    """A heat map of a depth-estimation result: dark where the model's value is lowest, bright where it is highest."""
    depth = depth_to_array(result)
    finite = depth[np.isfinite(depth)]
    lowest, highest = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    span = highest - lowest
    heat = np.nan_to_num((depth - lowest) / span if span > 0 else np.zeros_like(depth), posinf=1.0, neginf=0.0)
    steps = np.linspace(0, 1, len(HEAT))
    channels = [np.interp(heat, steps, HEAT[:, channel]) for channel in range(3)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def _color(index: int) -> tuple[int, int, int]:
    """A bright colour, far in hue from those of its neighbours."""
    red, green, blue = colorsys.hsv_to_rgb((index * GOLDEN_RATIO) % 1, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
