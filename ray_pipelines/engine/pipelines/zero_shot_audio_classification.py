"""zero-shot-audio-classification with reproducible crops and labels of each row's own."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import transformers

from ray_pipelines.errors import InvalidInput

__all__ = ["ZeroShotAudioClassificationPipeline"]

_global_generator = threading.Lock()


class ZeroShotAudioClassificationPipeline(transformers.ZeroShotAudioClassificationPipeline):  # type: ignore[misc]
    """Labels for sounds, each by the likeness of a sound to a hypothesis.

    Source: transformers 5.23, pipelines/zero_shot_audio_classification.py; clips longer than the model's window are
    cropped at places that depend on the clip alone, and the hypotheses of a batch are read once, each row taking the
    logits of its own.
    """

    def preprocess(
        self,
        audio: np.ndarray,
        candidate_labels: Sequence[str] | None = None,
        hypothesis_template: str = "This is a sound of {}.",
    ) -> dict[str, Any]:
        """The sound's features, the labels and their hypotheses.

        Raises:
            InvalidInput: Neither the row nor the parameters have labels.
        """
        if not candidate_labels:
            raise InvalidInput("candidate_labels: is set neither for this row nor as a parameter of the task.")
        with _seeded(audio):
            inputs = self.feature_extractor(
                [audio], sampling_rate=self.feature_extractor.sampling_rate, return_tensors="pt"
            )
        labels = list(candidate_labels)
        hypotheses = [hypothesis_template.format(label) for label in labels]
        return {**inputs.to(self.dtype), "candidate_labels": labels, "hypotheses": hypotheses}

    def _forward(self, model_inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Labels and `logits[1, num_labels]` of one sound, or lists of both for a batch."""
        sounds = dict(model_inputs)
        labels, hypotheses = sounds.pop("candidate_labels"), sounds.pop("hypotheses")
        is_batch = isinstance(hypotheses[0], list)
        rows = hypotheses if is_batch else [hypotheses]
        texts = list(dict.fromkeys(text for row in rows for text in row))
        logits = self.model(**self._tokenize(texts), **sounds).logits_per_audio.cpu()
        columns = {text: column for column, text in enumerate(texts)}
        own = [logits[index : index + 1, [columns[text] for text in row]] for index, row in enumerate(rows)]
        return {"candidate_labels": labels, "logits": own if is_batch else own[0]}

    def _tokenize(self, texts: Sequence[str]) -> Mapping[str, torch.Tensor]:
        tokens = self.tokenizer(texts, return_tensors="pt", padding=True)
        if tokens["input_ids"].shape[1] > self.tokenizer.model_max_length:
            longest = max(texts, key=len)
            raise InvalidInput(f"candidate_labels: {longest[:60]!r} is longer than the model takes.")
        return tokens.to(self.device)  # type: ignore[no-any-return]


@contextmanager
def _seeded(samples: np.ndarray) -> Iterator[None]:
    """Makes numpy's global generator, by which features are cropped, start from the samples; then restores it."""
    with _global_generator:
        state = np.random.get_state()
        np.random.seed(zlib.crc32(np.ascontiguousarray(samples).tobytes()))
        try:
            yield
        finally:
            np.random.set_state(state)
