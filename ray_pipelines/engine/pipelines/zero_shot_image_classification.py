"""zero-shot-image-classification in which every row may have labels of its own, also within one forward."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from ray_pipelines.errors import InvalidInput

__all__ = ["ZeroShotImageClassificationPipeline"]

TEXT = "text_"
TEMPLATE = "This is a photo of {}."


class ZeroShotImageClassificationPipeline(transformers.ZeroShotImageClassificationPipeline):  # type: ignore[misc]
    """Scores of each image's own labels.

    The tokens of a row's labels travel as `text_*[1, num_labels, num_tokens]`, so that rows share a forward whenever
    these shapes are equal. The forward encodes each distinct label once and picks every row's scores.
    """

    def _sanitize_parameters(self, tokenizer_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        if tokenizer_kwargs is not None:
            preprocess["tokenizer_kwargs"] = tokenizer_kwargs
        return preprocess, forward, postprocess

    def preprocess(
        self,
        image: Any,
        candidate_labels: list[str] | None = None,
        hypothesis_template: str = TEMPLATE,
        timeout: float | None = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The inputs of one image and its labels.

        Raises:
            InvalidInput: There are no labels.
        """
        if not candidate_labels:
            raise InvalidInput("candidate_labels: expected labels in the row or as a parameter; got none.")
        inputs = super().preprocess(image, candidate_labels, hypothesis_template, timeout, tokenizer_kwargs)
        (text,) = inputs.pop("text_inputs")
        return {**inputs, **{TEXT + name: tokens.unsqueeze(0) for name, tokens in text.items()}}

    def _forward(self, model_inputs: Any) -> dict[str, Any]:
        inputs = dict(model_inputs)
        candidate_labels = inputs.pop("candidate_labels")
        names = [name for name in inputs if name.startswith(TEXT)]
        texts = {name.removeprefix(TEXT): inputs.pop(name) for name in names}
        num_rows, num_labels, num_tokens = next(iter(texts.values())).shape
        joined = torch.cat([tokens.flatten(0, 1) for tokens in texts.values()], dim=1)
        distinct, own = torch.unique(joined, dim=0, return_inverse=True)
        tokens_of = dict(zip(texts, distinct.split(num_tokens, dim=1), strict=True))
        logits = self.model(**tokens_of, **inputs).logits_per_image
        return {"candidate_labels": candidate_labels, "logits": logits.gather(1, own.view(num_rows, num_labels))}

    def postprocess(self, model_outputs: Any) -> Any:
        """The labels with their scores, best first."""
        return super().postprocess(dict(model_outputs))
