"""depth-estimation whose picture never divides by zero, and that takes bfloat16 and images one pixel high or wide."""

from __future__ import annotations

from typing import Any

import numpy as np
import transformers
from PIL import Image

from ray_pipelines.engine.pipelines._images import explained

__all__ = ["DepthEstimationPipeline"]


class DepthEstimationPipeline(transformers.DepthEstimationPipeline):  # type: ignore[misc]
    """Depth at the size of the image, and the same scaled to 0…255."""

    def preprocess(self, image: Any, **parameters: Any) -> Any:
        """The model inputs of an image.

        Raises:
            InvalidInput: It cannot be resized, as a long strip.
        """
        with explained(self, image):
            return super().preprocess(image, **parameters)

    def postprocess(self, model_outputs: Any) -> dict[str, Any]:
        """`predicted_depth`, a float32 tensor `[height, width]`, and the picture `depth`; black if depth is constant.

        Args:
            model_outputs: Those of one image, with its `target_size`.
        """
        model_outputs["predicted_depth"] = model_outputs["predicted_depth"].float()
        (output,) = self.image_processor.post_process_depth_estimation(model_outputs, [model_outputs["target_size"]])
        depth = output["predicted_depth"].detach().cpu()
        if depth.ndim < 2:  # Image processors drop axes of length 1.
            depth = depth.reshape(tuple(model_outputs["target_size"]))
        values = depth.numpy()
        span = values.max() - values.min()
        scaled = (values - values.min()) / span if span > 0 else np.zeros_like(values)
        return {"predicted_depth": depth, "depth": Image.fromarray((scaled * 255).astype("uint8"))}
