"""fill-mask that gives all tokens where more candidates are asked for than the vocabulary has."""

from __future__ import annotations

from typing import Any

import transformers

__all__ = ["FillMaskPipeline"]


class FillMaskPipeline(transformers.FillMaskPipeline):  # type: ignore[misc]
    """The likeliest tokens for each mask in a text."""

    def postprocess(self, model_outputs: Any, top_k: int = 5, target_ids: Any = None) -> Any:
        """As in transformers, whose `top_k` fails if it is larger than the vocabulary."""
        top_k = min(top_k, model_outputs["logits"].shape[-1])
        return super().postprocess(model_outputs, top_k=top_k, target_ids=target_ids)
