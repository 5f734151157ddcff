"""zero-shot-classification with scores that do not overflow, and labels of each row's own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import transformers

from ray_pipelines.engine.pipelines._pairs import PairTokenizer
from ray_pipelines.errors import InvalidInput

__all__ = ["ZeroShotClassificationPipeline"]


class ZeroShotClassificationPipeline(transformers.ZeroShotClassificationPipeline):  # type: ignore[misc]
    """Pairs of a text and a hypothesis per label, each text tokenised once, scored with a stable softmax.

    Source: transformers 5.23, pipelines/zero_shot_classification.py; the exponential subtracts the maximum, pairs are
    not padded here, the text does not travel with the model's outputs, and of these only two logits are kept per label:
    those of contradiction and of entailment.
    """

    def preprocess(
        self,
        inputs: str,
        candidate_labels: Sequence[str] | None = None,
        hypothesis_template: str = "This example is {}.",
    ) -> Iterator[dict[str, Any]]:
        """One chunk per label: the pair's model inputs and the label.

        Raises:
            InvalidInput: Neither the row nor the parameters have labels.
        """
        if not candidate_labels:
            raise InvalidInput("candidate_labels: is set neither for this row nor as a parameter of the task.")
        hypotheses = [hypothesis_template.format(label) for label in candidate_labels]
        for index, pair in enumerate(self._pairs(inputs, hypotheses)):
            yield {"candidate_label": candidate_labels[index], "is_last": index == len(candidate_labels) - 1, **pair}

    @functools.cached_property
    def _pairs(self) -> PairTokenizer:
        return PairTokenizer(self.tokenizer)

    def _forward(self, model_inputs: Mapping[str, Any]) -> dict[str, Any]:
        tensors = {k: v for k, v in model_inputs.items() if k in self.tokenizer.model_input_names}
        if "use_cache" in inspect.signature(self.model.forward).parameters:
            tensors["use_cache"] = False
        logits = self.model(**tensors).logits
        contradiction = -1 if self.entailment_id == 0 else 0
        needed = torch.stack([logits[:, contradiction], logits[:, self.entailment_id]], dim=-1)
        return {"candidate_label": model_inputs["candidate_label"], "logits": needed}

    def postprocess(self, model_outputs: Sequence[Mapping[str, Any]], multi_label: bool = False) -> dict[str, Any]:
        """The labels, best first, and their scores."""
        labels = [output["candidate_label"] for output in model_outputs]
        logits = torch.cat([output["logits"] for output in model_outputs]).float()
        is_alone = multi_label or len(labels) == 1
        scores = logits.softmax(-1)[:, 1] if is_alone else logits[:, 1].softmax(-1)
        # Of equal scores the later label comes first, as in transformers.
        order = scores.numpy().argsort()[::-1].tolist()
        return {"labels": [labels[i] for i in order], "scores": [float(scores[i]) for i in order]}
