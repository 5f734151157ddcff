"""Images: encoded bytes, paths and arrays to upright PIL images in RGB.

Orientation (EXIF) and conversion are those of `transformers.image_utils.load_image`, so that results are equal. Only
formats whose decoders are part of Pillow itself are tried: others, such as EPS, would start external programs.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ray_pipelines.config import MediaLimits
from ray_pipelines.errors import InvalidInput, MediaError
from ray_pipelines.media import read_bytes

__all__ = ["encode_image", "load_image"]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "TGA", "JPEG2000", "MPO", "AVIF", "DIB")


def load_image(value: Any, limits: MediaLimits) -> Any:
    """An upright PIL image in RGB; arrays that are not `uint8` are handed on as they are.

    Args:
        value: Encoded bytes, a `{bytes, path}` struct, a path or URI, a `data:` URI, a PIL image of any mode, or an
            array: `uint8[height, width]` or `uint8[height, width, 1 | 3 | 4]`.
        limits: `max_pixels` and `max_bytes`.

    Raises:
        InvalidInput: `value` is none of these.
        MediaError: It cannot be decoded, or is over a limit.
    """
    if isinstance(value, np.ndarray):
        if value.dtype != np.uint8:
            return value
        value = _image_of_array(value)
    if isinstance(value, Image.Image):
        _check_pixels(value, limits)
        image = value
    elif hasattr(value, "__array__") and not isinstance(value, bytes | str):
        return value
    else:
        image = _decode_image(read_bytes(value, "image", limits), limits)
    return ImageOps.exif_transpose(image).convert("RGB")


def encode_image(image: Image.Image) -> dict[str, bytes | None]:
    """The picture as PNG in a `{bytes, path}` struct, as `arrow.IMAGE_TYPE` holds it."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def _decode_image(data: bytes, limits: MediaLimits) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            _check_pixels(image, limits)
            image.load()
            return image
    except MediaError:
        raise
    except UnidentifiedImageError:
        raise MediaError(f"image: cannot identify the format of {len(data):,} bytes.") from None
    except Image.DecompressionBombError:
        raise MediaError(f"image: is over the limit of {limits.max_pixels:,} pixels (limits.max_pixels).") from None
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, OverflowError, IndexError, TypeError) as error:
        raise MediaError(f"image: cannot be decoded: {error}.") from error


def _check_pixels(image: Image.Image, limits: MediaLimits) -> None:
    num_pixels = image.width * image.height
    if num_pixels > limits.max_pixels:
        raise MediaError(
            f"image: has {num_pixels:,} pixels ({image.width} x {image.height}); the limit is {limits.max_pixels:,} "
            "(limits.max_pixels)."
        )
    if num_pixels == 0:
        raise MediaError("image: has no pixels.")


def _image_of_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (3, 4):
        array = array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0)
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise InvalidInput(f"image: expected uint8[height, width, channels]; got uint8{list(array.shape)}.")
    return Image.fromarray(np.ascontiguousarray(array))
