"""image-feature-extraction of which only the wanted output leaves the device."""

from __future__ import annotations

from typing import Any

import transformers
from transformers.utils import ModelOutput

__all__ = ["ImageFeatureExtractionPipeline"]


class ImageFeatureExtractionPipeline(transformers.ImageFeatureExtractionPipeline):  # type: ignore[misc]
    """Features of each position, or those that the model's pooler makes of them."""

    def _sanitize_parameters(self, pool: bool | None = None, **kwargs: Any) -> Any:
        preprocess, _, postprocess = super()._sanitize_parameters(pool=pool, **kwargs)
        return preprocess, {} if pool is None else {"pool": pool}, postprocess

    def _forward(self, model_inputs: Any, pool: bool = False) -> ModelOutput:
        outputs = super()._forward(model_inputs)
        if not pool:
            name = next(iter(outputs))
        elif "pooler_output" in outputs:
            name = "pooler_output"
        else:
            raise ValueError(f"pool: {type(self.model).__name__} has no pooler. Set pool: false.")
        return ModelOutput({name: outputs[name]})
