"""image-to-image, which transformers 5 dropped: larger or cleaner images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageToImage, Pipeline
from transformers.image_utils import get_image_size
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TO_IMAGE_MAPPING_NAMES

from ray_pipelines.engine.pipelines import register_task
from ray_pipelines.engine.pipelines._images import image_inputs, open_image

__all__ = ["ImageToImagePipeline", "register"]


class ImageToImagePipeline(Pipeline):  # type: ignore[misc]
    """An image made of each image.

    Source: transformers 4.57.6, pipelines/image_to_image.py, for what goes in and comes out. What differs: the padding
    that the image processor adds is cut off again, models of one channel get and give grey images, and pixels become
    8-bit numbers on the device.
    """

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.check_model_type(MODEL_FOR_IMAGE_TO_IMAGE_MAPPING_NAMES)

    def _sanitize_parameters(
        self, timeout: float | None = None
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {} if timeout is None else {"timeout": timeout}, {}, {}

    def __call__(self, images: Any, **kwargs: Any) -> Any:
        """The image made of an image, or a list of those made of several.

        Args:
            images: PIL images, paths, URLs or base64.
            kwargs: Parameters of this call.
        """
        return super().__call__(images, **kwargs)

    def preprocess(self, image: Any, timeout: float | None = None) -> dict[str, torch.Tensor]:
        """`pixel_values`, padded, and the `size` before that, int64[1, 2]: height and width."""
        image = open_image(image, timeout)
        if isinstance(image, Image.Image) and self.model.config.num_channels == 1:
            image = image.convert("L")
        size = image.size[::-1] if isinstance(image, Image.Image) else get_image_size(np.asarray(image))
        return {**image_inputs(self, image), "size": torch.tensor([size])}

    def _forward(self, model_inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """`pixels`, uint8[batch, height, width, channels], padded, and the `size` of each without padding."""
        inputs = dict(model_inputs)
        size = inputs.pop("size")
        made = self.model(**inputs).reconstruction
        height, width = inputs["pixel_values"].shape[-2:]
        scale = torch.tensor([made.shape[-2] / height, made.shape[-1] / width], device=size.device)
        pixels = (made.float().clamp(0, 1) * 255).round().to(torch.uint8)
        return {"pixels": pixels.movedim(1, -1), "size": (size * scale).round().long()}

    def postprocess(self, model_outputs: Mapping[str, torch.Tensor]) -> Image.Image:
        """The image, in RGB or grey."""
        height, width = model_outputs["size"][0].tolist()
        pixels = model_outputs["pixels"][0, :height, :width]
        return Image.fromarray((pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).contiguous().numpy())


def register() -> None:
    """Makes the task known to transformers."""
    register_task(
        "image-to-image",
        ImageToImagePipeline,
        (AutoModelForImageToImage,),
        default=("caidas/swin2SR-classical-sr-x2-64", "cee1c92"),
        modality="image",
    )
