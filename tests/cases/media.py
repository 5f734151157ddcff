"""Images and sounds of all kinds, made of seeded noise."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

CASES: list[Any] = []

TEXTS = [
    "a",
    "Hello world! " * 3,
    "The quick brown fox jumps over 12 lazy dogs.",
    "日本語 and émigré 😀 text",
    "short",
    "x y z " * 7,
    "Words, words; words? " * 4,
    "B",
]
MODES_AND_SIZES = [
    ("RGB", (30, 30)),
    ("L", (17, 40)),
    ("RGBA", (64, 20)),
    ("P", (8, 8)),
    ("1", (31, 33)),
    ("CMYK", (50, 50)),
    ("LA", (12, 90)),
    ("I;16", (20, 20)),
]


def image(mode: str = "RGB", size: tuple[int, int] = (30, 30), seed: int = 0) -> Image.Image:
    """A picture of noise."""
    rng = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65535, size[::-1], dtype=np.uint16))
    pixels = rng.integers(0, 255, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


def images() -> list[Image.Image]:
    """Pictures of many modes and sizes."""
    return [image(mode, size, seed) for seed, (mode, size) in enumerate(MODES_AND_SIZES)]


def png(picture: Image.Image) -> bytes:
    """The picture as PNG bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def sound(num_samples: int, seed: int = 0) -> np.ndarray:
    """A tone in noise, `float32[num_samples]`."""
    rng = np.random.default_rng(seed)
    tone = np.sin(np.arange(num_samples) * (0.01 + 0.02 * (seed % 7)))
    return (tone + 0.3 * rng.standard_normal(num_samples)).astype(np.float32)


def sounds() -> list[np.ndarray]:
    """Sounds of many lengths, two of them equally long."""
    return [sound(length, seed) for seed, length in enumerate((16000, 4000, 9000, 16000, 7001, 12345))]
