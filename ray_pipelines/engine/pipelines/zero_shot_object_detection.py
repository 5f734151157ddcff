"""zero-shot-object-detection with one look at each image, and a result for every row."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import transformers
from torch.nn.utils.rnn import pad_sequence
from transformers.image_utils import load_image

from ray_pipelines.errors import InvalidInput

__all__ = ["ZeroShotObjectDetectionPipeline"]

TEXT = "text_"
INDEPENDENT_LABELS = ("owlvit", "owlv2")
"""Models that score each label of an image by itself, so that all of them can share its forward."""
KEPT_SETS = 64
ROUNDING = 1e-3
"""So far below the threshold a box is kept for the processor to decide, which computes on another device."""


class ZeroShotObjectDetectionPipeline(transformers.ZeroShotObjectDetectionPipeline):  # type: ignore[misc]
    """Boxes of each image's own labels.

    A chunk is an image with some of its labels: all of them where the model scores labels independently, else one.
    There, labels are embedded once for all images that have the same, images of any labels share a forward, and of
    their thousands of boxes only those leave the device that some label may be at. For other models the tokens of the
    labels travel as `text_*[1, num_labels, num_tokens]`, which nothing pads: rows share a forward if these are equal.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._embedded: OrderedDict[tuple[str, ...], tuple[torch.Tensor, torch.Tensor]] = OrderedDict()

    @property
    def _is_together(self) -> bool:
        """Whether all labels of an image share its forward."""
        return self.model.config.model_type in INDEPENDENT_LABELS and self.tokenizer.pad_token_id is not None

    def _sanitize_parameters(self, candidate_labels: list[str] | None = None, **kwargs: Any) -> Any:
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        if candidate_labels is not None:
            preprocess["candidate_labels"] = candidate_labels
        if "threshold" in postprocess and self._is_together:
            forward["threshold"] = postprocess["threshold"]
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
        if self._is_together:
            tokens = self.tokenizer(candidate_labels, padding=len(candidate_labels) > 1)
            texts = [tokens["input_ids"], tokens["attention_mask"]]
            yield {"target_size": target_size, "candidate_labels": candidate_labels, "texts": texts, **features}
            return
        for labels in ([label] for label in candidate_labels):
            texts = self.tokenizer(labels, padding=len(labels) > 1, return_tensors="pt")
            yield {
                "target_size": target_size,
                "candidate_labels": labels,
                **{TEXT + name: tokens.unsqueeze(0) for name, tokens in texts.items()},
                **features,
            }

    def _forward(self, model_inputs: Any, threshold: float = 0.1) -> dict[str, Any]:
        inputs = dict(model_inputs)
        target_size, candidate_labels = inputs.pop("target_size"), inputs.pop("candidate_labels")
        about = {"target_size": target_size, "candidate_labels": candidate_labels}
        if "texts" in inputs:
            return {**about, **self._detect(inputs, candidate_labels, threshold)}
        names = [name for name in inputs if name.startswith(TEXT)]
        texts = {name.removeprefix(TEXT): inputs.pop(name).flatten(0, 1) for name in names}
        return {**about, **self.model(**texts, **inputs)}

    def _detect(self, inputs: dict[str, Any], candidate_labels: Any, threshold: float) -> dict[str, Any]:
        """Logits `float[1, boxes, labels]` and boxes of each image that may pass; in a batch, lists of them.

        Source: transformers 5.23, `OwlViTForObjectDetection.forward`, whose parts are called.
        """
        is_batch = isinstance(candidate_labels[0], list)
        labels, texts = (candidate_labels, inputs["texts"]) if is_batch else ([candidate_labels], [inputs["texts"]])
        embedded = [self._embed(*row) for row in zip(labels, texts, strict=True)]
        queries, are_queries = (pad_sequence([row[part] for row in embedded], batch_first=True) for part in (0, 1))
        feature_map, _ = self.model.image_embedder(inputs["pixel_values"])
        features = feature_map.flatten(1, 2)
        logits, _ = self.model.class_predictor(features, queries, are_queries)
        boxes = self.model.box_predictor(features, feature_map)
        confidence = torch.stack([logits.amax(dim=(1, 2)), boxes.mean(dim=(1, 2))], dim=-1)
        passed = logits.sigmoid().amax(dim=-1) > threshold - ROUNDING
        detected: dict[str, list[torch.Tensor]] = {"logits": [], "pred_boxes": []}
        for row, own in enumerate(labels):
            detected["logits"].append(logits[row, passed[row], : len(own)][None])
            detected["pred_boxes"].append(boxes[row, passed[row]][None])
        found = detected if is_batch else {name: values[0] for name, values in detected.items()}
        return {**found, "confidence": confidence.float()}

    def _embed(self, labels: Sequence[str], texts: Sequence[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings of labels, `float[labels, channels]`, and which of them are any; of sets used last, kept ones."""
        key = tuple(labels)
        if key not in self._embedded:
            ids, mask = (torch.tensor(values, device=self.model.device) for values in texts)
            model = self.model.base_model
            embeddings = model.text_projection(model.text_model(input_ids=ids, attention_mask=mask).pooler_output)
            self._embedded[key] = embeddings / torch.linalg.norm(embeddings, ord=2, dim=-1, keepdim=True), ids[:, 0] > 0
            if len(self._embedded) > KEPT_SETS:
                self._embedded.popitem(last=False)
        self._embedded.move_to_end(key)
        return self._embedded[key]

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
                logits = outputs["logits"][..., index : index + 1] if self._is_together else outputs["logits"]
                single.append({**outputs, "candidate_label": label, "logits": logits})
        return super().postprocess(single, threshold=threshold, top_k=top_k)
