"""Images: encoded bytes, paths and arrays to upright PIL images in RGB.

Orientation (EXIF) and conversion are those of `transformers.image_utils.load_image`, so that results are equal. Only
formats whose decoders are part of Pillow itself are tried: others, such as EPS, would start external programs.
"""

from __future__ import annotations

import functools
import io
import struct
import warnings
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.IcoImagePlugin import IcoFile

from ray_pipelines.errors import InvalidInput, InvalidRow, MediaError
from ray_pipelines.media import read_bytes
from ray_pipelines.media.limits import MediaLimits

__all__ = ["encode_image", "load_image", "load_named_images", "num_pixels"]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "TGA", "JPEG2000", "AVIF", "DIB")
"""MPO pictures are read as JPEG."""
ICON = b"\0\0\1\0"
TILE_WIDTH, TILE_HEIGHT = 322, 323
"""Tags of TIFF."""
DECODE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    MemoryError,
    OverflowError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise on broken data."""


def load_image(value: Any, limits: MediaLimits) -> Any:
    """An upright PIL image in RGB; arrays that are not `uint8` are handed on as they are.

    Args:
        value: Encoded bytes, a `{bytes, path}` struct, a path or URI, a `data:` URI, a PIL image of any mode, or an
            array: `uint8[height, width]` or `uint8[height, width, 1 | 3 | 4]`.
        limits: `max_pixels`, `max_aspect_ratio` and `max_bytes`.

    Raises:
        InvalidInput: `value` is none of these.
        MediaError: It cannot be decoded, or is over a limit.
    """
    if not isinstance(value, Image.Image | bytes | str) and hasattr(value, "__array__"):
        array = np.asarray(value)
        if array.dtype.kind not in "uifb":
            raise InvalidInput(f"image: expected an array of numbers; got {array.dtype}.")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InvalidInput("image: expected finite numbers; got NaN or infinity.")
        if array.dtype != np.uint8:
            return value
        value = _image_of_array(array)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = value if isinstance(value, Image.Image) else _open(read_bytes(value, "image", limits))
            _check_pixels(image, limits)
            return ImageOps.exif_transpose(image).convert("RGB")
    except InvalidRow:
        raise
    except UnidentifiedImageError:
        raise MediaError("image: cannot be decoded: it is of no known format, or broken.") from None
    except Image.DecompressionBombError:
        raise MediaError(f"image: is over the limit of {limits.max_pixels:,} pixels (limits.max_pixels).") from None
    except DECODE_ERRORS as error:
        raise MediaError(f"image: cannot be decoded: {str(error).rstrip('.') or type(error).__name__}.") from error


def load_named_images(value: Any, limits: MediaLimits) -> dict[str, Any]:
    """Pictures by name: of a mapping, the pairs of an Arrow map, or a struct, where null means that there is none.

    Args:
        value: Name to picture, as `load_image` takes it, or as `{type, format, data_base64}`.
        limits: `max_pixels` and `max_bytes` of each.

    Raises:
        InvalidInput: `value` is none of these.
        MediaError: A picture cannot be decoded, or is over a limit.
    """
    if isinstance(value, list | tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
        value = dict(value)
    if not isinstance(value, Mapping):
        raise InvalidInput(f"assets: expected pictures by name; got {type(value).__name__}.")
    pictures = {}
    for name, picture in value.items():
        if isinstance(picture, Mapping) and isinstance(picture.get("data_base64"), str):
            picture = f"data:,{picture['data_base64']}"
        if picture is not None:
            pictures[name] = load_image(picture, limits)
    return pictures


def num_pixels(data: bytes) -> int:
    """Pixels of an encoded image, by its header alone; 0 where that cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = _open(data)
        return max(image.width * image.height, _tile_pixels(image))
    except Image.DecompressionBombError:
        return 2**62
    except DECODE_ERRORS:
        return 0


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this build of Pillow reads."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _open(data: bytes) -> Image.Image:
    """The picture, of which only the header is read; of an icon the largest one, which Pillow would decode at once."""
    if data.startswith(ICON):
        return IcoFile(io.BytesIO(data)).frame(0)
    return Image.open(io.BytesIO(data), formats=_formats())


def encode_image(image: Image.Image) -> dict[str, bytes | None]:
    """The picture as PNG in a `{bytes, path}` struct, as `arrow.IMAGE_TYPE` holds it."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def _check_pixels(image: Image.Image, limits: MediaLimits) -> None:
    num_pixels = image.width * image.height
    if num_pixels > limits.max_pixels:
        raise MediaError(
            f"image: has {num_pixels:,} pixels ({image.width} x {image.height}); the limit is {limits.max_pixels:,} "
            "(limits.max_pixels)."
        )
    if num_pixels == 0:
        raise MediaError("image: has no pixels.")
    if _tile_pixels(image) > limits.max_pixels:
        raise MediaError(
            f"image: has tiles of {_tile_pixels(image):,} pixels; the limit is {limits.max_pixels:,} "
            "(limits.max_pixels)."
        )
    limits.check_sides("image", image.width, image.height)


def _tile_pixels(image: Image.Image) -> int:
    """Pixels of a tile of a TIFF picture, which is decoded whole even if it is larger than the picture."""
    tags: Any = getattr(image, "tag_v2", {})
    return int(tags.get(TILE_WIDTH, 0) * tags.get(TILE_HEIGHT, 0))


def _image_of_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (3, 4):
        array = array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0)
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise InvalidInput(f"image: expected uint8[height, width, channels]; got uint8{list(array.shape)}.")
    return Image.fromarray(np.ascontiguousarray(array))
