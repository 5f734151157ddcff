"""Images of every kind that a column may hold, limits, and broken data."""

from __future__ import annotations

import base64
import contextlib
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ray_pipelines import media
from ray_pipelines.config import MediaLimits
from ray_pipelines.errors import InvalidInput, InvalidRow, MediaError
from ray_pipelines.media.image import load_image, num_pixels
from tests.cases.media import image, png

LIMITS = MediaLimits(max_pixels=1_000_000)
MODES = (
    "1",
    "L",
    "P",
    "RGB",
    "RGBA",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "LA",
    "PA",
    "RGBX",
    "RGBa",
    "La",
    "I;16",
)


def reference(value: Any) -> Image.Image:
    from transformers.image_utils import load_image as load

    return load(value)


def in_mode(mode: str) -> Image.Image:
    if mode == "PA":
        return image("P", (13, 7)).convert("PA")
    if mode in ("RGBa", "La"):
        return image(mode.upper(), (13, 7)).convert(mode)
    if mode == "LAB":
        return Image.frombytes("LAB", (13, 7), bytes(range(256))[: 13 * 7] * 3)
    return image(mode, (13, 7))


def encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_that_says(width: int, height: int) -> bytes:
    """A PNG of a few bytes with the header of a picture of any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.mode == other.mode and one.size == other.size and one.tobytes() == other.tobytes()


@pytest.mark.parametrize("mode", MODES)
def test_pictures_of_every_mode_become_rgb_as_in_transformers(mode: str) -> None:
    picture = in_mode(mode)
    try:
        expected = reference(picture)
    except ValueError:
        with pytest.raises(MediaError, match="cannot be decoded: conversion"):
            load_image(picture, LIMITS)
        return
    assert same(load_image(picture, LIMITS), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pictures_are_turned_upright_as_in_transformers(orientation: int, form: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image("RGB", (13, 7)), form, exif=exif)
    path = tmp_path / "picture"
    path.write_bytes(data)
    upright = load_image(data, LIMITS)
    assert upright.size == ((7, 13) if orientation >= 5 else (13, 7))
    assert same(upright, reference(str(path)))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "TGA", "JPEG2000", "DIB"])
def test_formats_of_pillow_are_decoded(form: str) -> None:
    data = encoded(image("RGB", (32, 32)), form)
    with Image.open(io.BytesIO(data)) as expected:
        assert same(load_image(data, LIMITS), expected.convert("RGB"))


def test_every_form_of_a_picture_gives_the_same_pixels(tmp_path: Path) -> None:
    picture = image("RGB", (40, 30))
    data = png(picture)
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    forms = [
        picture,
        np.asarray(picture),
        data,
        bytearray(data),
        memoryview(data),
        {"bytes": data, "path": None},
        {"bytes": None, "path": str(path)},
        {"path": path},
        str(path),
        path,
        f"file://{path}",
        f"data:image/png;base64,{base64.b64encode(data).decode()}",
        base64.b64encode(data).decode(),
        base64.encodebytes(data).decode(),
    ]
    for form in forms:
        assert same(media.decode(form, "image", LIMITS), picture)


def test_base64_with_slashes_is_not_taken_for_a_path() -> None:
    data = encoded(image("L", (8, 8)), "JPEG")
    text = base64.b64encode(data).decode()
    assert text.startswith("/9j/") and len(text) < 4096
    assert load_image(text, LIMITS).size == (8, 8)


def test_arrays_of_bytes_are_pictures() -> None:
    rgb = np.asarray(image("RGB", (6, 5)))
    gray = rgb[:, :, 0]
    alpha = np.asarray(image("RGBA", (6, 5)))
    gray_picture = Image.fromarray(gray).convert("RGB")
    assert same(load_image(rgb, LIMITS), Image.fromarray(rgb))
    assert same(load_image(rgb.transpose(2, 0, 1), LIMITS), Image.fromarray(rgb))
    assert same(load_image(alpha, LIMITS), Image.fromarray(alpha).convert("RGB"))
    for array in (gray, gray[:, :, None], gray[None]):
        assert same(load_image(array, LIMITS), gray_picture)


def test_a_tensor_of_bytes_is_a_picture() -> None:
    rgb = np.array(image("RGB", (6, 5)))
    assert same(load_image(torch.from_numpy(rgb), LIMITS), Image.fromarray(rgb))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_other_arrays_are_handed_on_untouched(dtype: type) -> None:
    array = np.zeros((3, 5, 6), dtype=dtype)
    assert load_image(array, LIMITS) is array


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "got null"),
        (3, "got int"),
        ([[1, 2]], "got list"),
        ({}, "got dict"),
        ({"path": None, "bytes": None}, "got dict"),
        (np.zeros((4, 5, 2), np.uint8), r"got uint8\[4, 5, 2\]"),
        (np.zeros((5,), np.uint8), r"got uint8\[5\]"),
        (np.zeros((0, 5, 3), np.uint8), r"got uint8\[0, 5, 3\]"),
        (np.zeros((2, 5, 5, 3), np.uint8), "got uint8"),
        (np.array(["a"]), "array of numbers; got <U1"),
        (np.array([None]), "array of numbers; got object"),
        (np.full((4, 4, 3), np.nan, np.float32), "finite numbers; got NaN"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_values_are_refused_by_what_is_wrong(value: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        load_image(value, LIMITS)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"", "empty value"),
        ("", "empty value"),
        (b"not an image", "no known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "no known format"),
        (png(image())[:100], "cannot be decoded"),
        (encoded(image("RGB", (90, 90)), "JPEG")[:-300], "cannot be decoded: image file is truncated"),
        ("no/such/picture.png", r"cannot open 'no/such/picture.png': .*No such file"),
        ("pictures/cat", "cannot open 'pictures/cat'"),
        ("no\0file", "cannot open"),
        ("nowhere://x.png", "cannot open"),
        ("data:image/png;base64,?", "expected base64"),
        ({"path": "no/such/picture.png"}, "cannot open"),
        (Image.new("RGB", (0, 5)), "no pixels"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_decoded_is_a_media_error(value: Any, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        load_image(value, LIMITS)


def test_pictures_over_the_limits_are_refused(tmp_path: Path) -> None:
    few = MediaLimits(max_pixels=100)
    for form in (image(), png(image()), np.asarray(image())):
        with pytest.raises(MediaError, match=r"900 pixels \(30 x 30\); the limit is 100 \(limits\.max_pixels\)"):
            load_image(form, few)
    small = MediaLimits(max_bytes=100)
    path = tmp_path / "picture.png"
    path.write_bytes(png(image()))
    for form in (png(image()), str(path)):
        with pytest.raises(MediaError, match=r"the limit is 100 \(limits\.max_bytes\)"):
            load_image(form, small)


@pytest.mark.parametrize("size", [(30_000, 30_000), (12_000, 10_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    bomb = png_that_says(*size)
    assert len(bomb) < 200
    with pytest.raises(MediaError, match=r"limits\.max_pixels"):
        load_image(bomb, MediaLimits())


def test_an_icon_is_as_large_as_the_picture_in_it() -> None:
    inner = png_that_says(12_000, 10_000)
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22)
    bomb = struct.pack("<HHH", 0, 1, 1) + entry + inner
    assert num_pixels(bomb) == 120_000_000
    with pytest.raises(MediaError, match=r"120,000,000 pixels .*limits\.max_pixels"):
        load_image(bomb, MediaLimits())


def test_tiles_larger_than_their_picture_count() -> None:
    tags = {256: 64, 257: 64, 258: 8, 259: 8, 262: 1, 277: 1, 322: 32_000, 323: 32_000, 324: 8, 325: 2}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    bomb = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    assert num_pixels(bomb) == 32_000 * 32_000
    with pytest.raises(MediaError, match=r"tiles of 1,024,000,000 pixels; .*limits\.max_pixels"):
        load_image(bomb, MediaLimits())


@pytest.mark.parametrize("size", [(1, 1001), (2002, 2)])
def test_pictures_that_are_too_long_for_their_width_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(MediaError, match=r"the limit is 1000 times .*limits\.max_aspect_ratio"):
        load_image(png(image("RGB", size)), MediaLimits())
    assert load_image(png(image("RGB", size)), MediaLimits(max_aspect_ratio=1001)).size == size
    assert load_image(png(image("RGB", (1, 1000))), MediaLimits()).size == (1, 1000)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "ICO", "TGA", "JPEG2000"])
def test_broken_bytes_never_raise_anything_else(form: str) -> None:
    rng = np.random.default_rng(0)
    whole = encoded(image("RGB", (32, 32)), form)
    for _ in range(60):
        data = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for _ in range(3):
            data[rng.integers(min(len(data), 200))] = rng.integers(256)
        with contextlib.suppress(InvalidRow):
            assert load_image(bytes(data), LIMITS).mode == "RGB"
