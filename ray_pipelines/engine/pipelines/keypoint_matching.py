"""keypoint-matching with x scaled by the width of the image and y by its height."""

from __future__ import annotations

from typing import Any

import torch
import transformers

__all__ = ["KeypointMatchingPipeline"]


class KeypointMatchingPipeline(transformers.KeypointMatchingPipeline):  # type: ignore[misc]
    """Matches in pixels of the two images.

    transformers 5.23 hands (width, height) to a processor that expects (height, width).
    """

    def preprocess(self, images: Any, timeout: float | None = None) -> dict[str, Any]:
        """The inputs of one pair, with `target_sizes`, `int64[1, 2, 2]`: height and width of each image."""
        prepared = super().preprocess(images, timeout=timeout)
        sizes = [(height, width) for width, height in prepared["target_sizes"]]
        return {**prepared["model_inputs"], "target_sizes": torch.tensor([sizes])}

    def _forward(self, model_inputs: Any) -> Any:
        target_sizes = model_inputs.pop("target_sizes")
        outputs = self.model(**model_inputs)
        outputs["target_sizes"] = target_sizes
        return outputs

    def postprocess(self, outputs: Any, threshold: float = 0.0) -> Any:
        """The matches of one pair, best first."""
        prepared = {"model_outputs": outputs, "target_sizes": outputs["target_sizes"]}
        return super().postprocess(prepared, threshold=threshold)
