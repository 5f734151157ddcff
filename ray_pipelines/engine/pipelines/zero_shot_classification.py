"""zero-shot-classification with scores that do not overflow, and labels of each row's own."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import transformers

from ray_pipelines.errors import InvalidInput, RowError, attempt

__all__ = ["ZeroShotClassificationPipeline"]


class ZeroShotClassificationPipeline(transformers.ZeroShotClassificationPipeline):  # type: ignore[misc]
    """Pairs of a text and a hypothesis per label, tokenised in one call and scored with a stable softmax.

    Source: transformers 5.23, pipelines/zero_shot_classification.py; the exponential subtracts the maximum, pairs are
    not padded here, and the text does not travel with the model's outputs.
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
        pairs = [[inputs, hypothesis_template.format(label)] for label in candidate_labels]
        encoded = self._tokenize(pairs)
        for index, label in enumerate(candidate_labels):
            tensors = {name: torch.tensor([values[index]]) for name, values in encoded.items()}
            yield {"candidate_label": label, "is_last": index == len(candidate_labels) - 1, **tensors}

    def _tokenize(self, pairs: list[list[str]]) -> Mapping[str, list[list[int]]]:
        """The model inputs of each pair, unpadded; texts are cut where they are too long, hypotheses never."""
        encoded: Any = attempt("preprocess", lambda: self.tokenizer(pairs, truncation="only_first"))
        if isinstance(encoded, RowError):
            # Some tokenizers refuse to cut a text that is shorter than what they would cut off.
            if "too short" not in encoded.message:
                raise encoded
            encoded = self.tokenizer(pairs, truncation=False)
        return encoded  # type: ignore[no-any-return]

    def _forward(self, model_inputs: Mapping[str, Any]) -> dict[str, Any]:
        tensors = {k: v for k, v in model_inputs.items() if k in self.tokenizer.model_input_names}
        if "use_cache" in inspect.signature(self.model.forward).parameters:
            tensors["use_cache"] = False
        return {"candidate_label": model_inputs["candidate_label"], "logits": self.model(**tensors).logits}

    def postprocess(self, model_outputs: Sequence[Mapping[str, Any]], multi_label: bool = False) -> dict[str, Any]:
        """The labels, best first, and their scores."""
        labels = [output["candidate_label"] for output in model_outputs]
        logits = torch.cat([output["logits"] for output in model_outputs]).float()
        if multi_label or len(labels) == 1:
            contradiction = -1 if self.entailment_id == 0 else 0
            scores = logits[:, [contradiction, self.entailment_id]].softmax(-1)[:, 1]
        else:
            scores = logits[:, self.entailment_id].softmax(-1)
        # Of equal scores the later label comes first, as in transformers.
        order = scores.numpy().argsort()[::-1].tolist()
        return {"labels": [labels[i] for i in order], "scores": [float(scores[i]) for i in order]}
