"""zero-shot-object-detection with one look at each image, and a result for every row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import transformers
from transformers.image_utils import load_image

from ray_pipelines.errors import InvalidInput

__all__ = ["ZeroShotObjectDetectionPipeline"]

TEXT = "text_"
INDEPENDENT_LABELS = ("owlvit", "owlv2")
"""Models that score each label of an image by itself, so that all of them can share its forward."""


class ZeroShotObjectDetectionPipeline(transformers.ZeroShotObjectDetectionPipeline):  # type: ignore[misc]
    """Boxes of each image's own labels.

    A chunk is an image with some of its labels: all of them where the model scores labels independently, else one.
    Their tokens travel as `text_*[1, num_labels, num_tokens]`, which nothing pads: rows share a forward if these
    shapes are equal.
    """

    def _sanitize_parameters(self, candidate_labels: list[str] | None = None, **kwargs: Any) -> Any:
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        if candidate_labels is not None:
            preprocess["candidate_labels"] = candidate_labels
        return preprocess, forward, postprocess

    def preprocess(
        self, image: Any, candidate_labels: list[str] | None = None, timeout: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """The chunks of one image: none where its list of labels is empty.

        Raises:
            InvalidInput: There is no list of labels.
        """
        if candidate_labels is None:
            raise InvalidInput("candidate_labels: expected labels in the row or as a parameter; got none.")
        if not candidate_labels:
            return
        image = load_image(image, timeout=timeout)
        features = self.image_processor(image, return_tensors="pt").to(self.dtype)
        target_size = torch.tensor([[image.height, image.width]], dtype=torch.int32)
        together = self.model.config.model_type in INDEPENDENT_LABELS and self.tokenizer.pad_token_id is not None
        for labels in [candidate_labels] if together else [[label] for label in candidate_labels]:
            texts = self.tokenizer(labels, padding=len(labels) > 1, return_tensors="pt")
            yield {
                "target_size": target_size,
                "candidate_labels": labels,
                **{TEXT + name: tokens.unsqueeze(0) for name, tokens in texts.items()},
                **features,
            }

    def _forward(self, model_inputs: Any) -> dict[str, Any]:
        inputs = dict(model_inputs)
        target_size, candidate_labels = inputs.pop("target_size"), inputs.pop("candidate_labels")
        names = [name for name in inputs if name.startswith(TEXT)]
        texts = {name.removeprefix(TEXT): inputs.pop(name).flatten(0, 1) for name in names}
        outputs = self.model(**texts, **inputs)
        return {"target_size": target_size, "candidate_labels": candidate_labels, **outputs}

    def postprocess(self, model_outputs: Sequence[Any], threshold: float = 0.1, top_k: int | None = None) -> Any:
        """The objects of one image, best first.

        Args:
            model_outputs: Those of its chunks.
            threshold: Least score.
            top_k: Objects at most.
        """
        single = []
        for outputs in model_outputs:
            labels = outputs["candidate_labels"]
            for index, label in enumerate(labels):
                logits = outputs["logits"][..., index : index + 1] if len(labels) > 1 else outputs["logits"]
                single.append({**outputs, "candidate_label": label, "logits": logits})
        return super().postprocess(single, threshold=threshold, top_k=top_k)
