"""token-classification whose tokens leave the model as a label and its score, not as the scores of all labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from transformers.pipelines.token_classification import AggregationStrategy

__all__ = ["TokenClassificationPipeline"]

LABELS, SCORES, PROBABILITIES = "labels", "scores", "probabilities"
KEPT = ("input_ids", "special_tokens_mask", "offset_mapping", "sentence", "is_last", "word_ids", "word_to_chars_map")


class TokenClassificationPipeline(transformers.TokenClassificationPipeline):  # type: ignore[misc]
    """Entities of each text.

    Source: transformers 5.23, pipelines/token_classification.py. Its strategies look at no more than the best label of
    a token and the score of that, but for `average`, which needs all; the softmax is taken where the model runs, and
    what is needed of it leaves. The tokens' entities are gathered and joined by the inherited methods.
    """

    def _sanitize_parameters(self, *args: Any, **kwargs: Any) -> Any:
        preprocess, forward, postprocess = super()._sanitize_parameters(*args, **kwargs)
        if "aggregation_strategy" in postprocess:
            forward["aggregation_strategy"] = postprocess["aggregation_strategy"]
        return preprocess, forward, postprocess

    def _forward(
        self, model_inputs: Any, aggregation_strategy: AggregationStrategy = AggregationStrategy.NONE
    ) -> dict[str, Any]:
        """The label of each token `int64[batch, tokens]` and its score `float32[batch, tokens]`.

        In place of these, `float32[batch, tokens, labels]` of probabilities where words take the average of theirs.
        """
        outputs = super()._forward(dict(model_inputs))
        probabilities = outputs["logits"].float().softmax(dim=-1)
        kept = {name: outputs[name] for name in KEPT if outputs.get(name) is not None or name == "offset_mapping"}
        kept.setdefault("sentence", None)
        if aggregation_strategy == AggregationStrategy.AVERAGE:
            return {PROBABILITIES: probabilities, **kept}
        scores, labels = probabilities.max(dim=-1)
        return {LABELS: labels, SCORES: scores, **kept}

    def postprocess(
        self,
        all_outputs: Sequence[Mapping[str, Any]],
        aggregation_strategy: AggregationStrategy = AggregationStrategy.NONE,
        ignore_labels: Sequence[str] | None = None,
    ) -> list[dict[str, Any]]:
        """The entities of one text.

        Args:
            all_outputs: Those of its chunks, in order.
            aggregation_strategy: How tokens form entities.
            ignore_labels: Labels to leave out; `O` if None.
        """
        ignored = {"O"} if ignore_labels is None else set(ignore_labels)
        first = all_outputs[0]
        entities: list[dict[str, Any]] = []
        for output in all_outputs:
            offsets = output["offset_mapping"]
            tokens = self.gather_pre_entities(
                first["sentence"],
                output["input_ids"][0],
                self._scores(output),
                offsets[0] if offsets is not None else None,
                output["special_tokens_mask"][0].numpy(),
                aggregation_strategy,
                word_ids=output.get("word_ids"),
                word_to_chars_map=first.get("word_to_chars_map"),
            )
            found = self.aggregate(tokens, aggregation_strategy)
            entities += [e for e in found if e.get("entity") not in ignored and e.get("entity_group") not in ignored]
        return self.aggregate_overlapping_entities(entities) if len(all_outputs) > 1 else entities

    def _scores(self, output: Mapping[str, Any]) -> np.ndarray:
        """Scores of all labels of each token, `float32[tokens, labels]`: 0 for those that are not the best."""
        if PROBABILITIES in output:
            return output[PROBABILITIES][0].numpy()  # type: ignore[no-any-return]
        labels = output[LABELS]
        scores = torch.zeros(labels.shape[1], self.model.config.num_labels)
        return scores.scatter_(1, labels[0, :, None], output[SCORES][0, :, None]).numpy()
