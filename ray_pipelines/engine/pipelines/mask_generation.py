"""mask-generation in three steps that keep to their places: crops on the CPU, the model on the device, NMS.

In transformers 5.23 `preprocess` runs the vision encoder, and a chunk is a batch of points with a copy of the image's
embedding. Here a chunk is a crop of the image with all of its points: it is embedded once, where the masks are made.
And there `crop_n_points_downscale_factor` fails unless it is 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import transformers
from torchvision.ops import batched_nms
from transformers.image_utils import load_image

from ray_pipelines.engine.pipelines._images import explained

__all__ = ["MaskGenerationPipeline"]

ENCODED_PIXELS = 4 * 1024**2
"""Pixels that the vision encoder sees at once, unless a single crop has more: four crops of SAM's size."""


class MaskGenerationPipeline(transformers.MaskGenerationPipeline):  # type: ignore[misc]
    """Masks as run lengths, with scores and boxes."""

    def _sanitize_parameters(self, **kwargs: Any) -> Any:
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        if "points_per_batch" in preprocess:
            forward["points_per_batch"] = preprocess.pop("points_per_batch")
        return preprocess, forward, postprocess

    def preprocess(
        self,
        image: Any,
        crops_n_layers: int = 0,
        crop_overlap_ratio: float = 512 / 1500,
        points_per_crop: int = 32,
        crop_n_points_downscale_factor: int = 1,
        timeout: float | None = None,
    ) -> Iterator[dict[str, Any]]:
        """The image and then its crops, layer by layer, each with its grid of points `[1, num_points, 1, 2]`.

        Every layer is asked for by itself, and only its own crops are taken of what comes (those of lower layers come
        first): transformers stacks the grids of all layers, which fails where they have different numbers of points.

        Raises:
            InvalidInput: The image is too small for its crops, or a strip that is too long.
        """
        size = self.image_processor.size
        image = load_image(image, timeout=timeout)
        for layer in range(crops_n_layers + 1):
            with explained(self, image):
                boxes, points, crops, labels = self.image_processor.generate_crop_boxes(
                    image,
                    size.get("longest_edge", size.get("height")),
                    layer,
                    crop_overlap_ratio,
                    points_per_crop // crop_n_points_downscale_factor**layer,
                )
                own = slice((4**layer - 1) // 3, None)
                inputs = self.image_processor(images=crops[own], return_tensors="pt").to(self.dtype)
            for index, box in enumerate(boxes[own]):
                yield {
                    "input_points": points[:, :, own][:, :, index : index + 1],
                    "input_labels": labels[:, :, own][:, :, index : index + 1],
                    "input_boxes": box[None],
                    "full_image_size": torch.tensor([[image.height, image.width]]),
                    **{name: value[index : index + 1] for name, value in inputs.items()},
                }

    def _forward(self, model_inputs: Any, points_per_batch: int | None = 64, **filters: Any) -> dict[str, Any]:
        """The masks of each crop that pass the filters; in a batch, a list of one value per crop under each name.

        A crop goes through the vision encoder once, together with others of the batch as far as they are small enough;
        then the model is asked about its points, a few at a time.

        Returns:
            `size` (of the image, `int64[2]`), `counts` (the run lengths of all masks, `int32[runs]`), `num_counts` (of
            each mask, `int64[masks]`), `iou_scores`, `boxes`, and `confidence` (`float32[1, 2]`: of the embedding, by
            which the executor checks that batches change nothing).
        """
        inputs = dict(model_inputs)
        pixel_values = inputs.pop("pixel_values")
        num_together = max(1, ENCODED_PIXELS // pixel_values[0, 0].numel())
        made = []
        for start in range(0, len(pixel_values), num_together):
            embeddings = self._embeddings(pixel_values[start : start + num_together])
            for row in range(min(num_together, len(pixel_values) - start)):
                crop = {name: _row(value, start + row) for name, value in inputs.items()}
                made.append(self._masks(crop, _row(embeddings, row), points_per_batch, filters))
        return made[0] if len(made) == 1 else {name: [output[name] for output in made] for name in made[0]}

    def _masks(
        self, crop: dict[str, Any], embeddings: dict[str, Any], points_per_batch: int | None, filters: dict[str, Any]
    ) -> dict[str, Any]:
        """The masks of one crop, from its embeddings."""
        points, labels = crop.pop("input_points"), crop.pop("input_labels")
        size = points_per_batch or points.shape[1]
        prompts = ((points[:, i : i + size], labels[:, i : i + size]) for i in range(0, points.shape[1], size))
        parts = [self._masks_of_points(crop, embeddings, *prompt, **filters) for prompt in prompts]
        counts = [rle["counts"] for masks, _, _ in parts for rle in masks]
        embedding = next(_tensors(embeddings)).float()
        return {
            "size": crop["full_image_size"][0],
            "counts": torch.tensor([count for mask in counts for count in mask], dtype=torch.int32),
            "num_counts": torch.tensor([len(mask) for mask in counts], dtype=torch.int64),
            "iou_scores": torch.cat([scores for _, scores, _ in parts]),
            "boxes": torch.cat([boxes for _, _, boxes in parts]),
            "confidence": torch.stack([embedding.mean(), embedding.std()])[None],
        }

    def _masks_of_points(
        self,
        crop: dict[str, Any],
        embeddings: dict[str, Any],
        points: torch.Tensor,
        labels: torch.Tensor,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        mask_threshold: float = 0,
        stability_score_offset: float = 1,
        max_hole_area: float | None = None,
        max_sprinkle_area: float | None = None,
    ) -> tuple[list[dict[str, Any]], torch.Tensor, torch.Tensor]:
        """Run lengths, scores and boxes of the masks at some points that pass the filters.

        Source: transformers 5.23, `MaskGenerationPipeline._forward`; masks of low quality are dropped before the others
        are brought to the size of the image, which takes 20 times the memory of the model's own masks.
        """
        outputs = self.model(input_points=points, input_labels=labels, **embeddings)
        scores = outputs["iou_scores"][0].flatten()
        passed = scores > pred_iou_thresh if pred_iou_thresh > 0 else torch.ones_like(scores, dtype=torch.bool)
        if not passed.any():
            return [], scores[:0], torch.zeros(0, 4, dtype=torch.int64, device=scores.device)
        masks = outputs["pred_masks"][0].flatten(0, 1)[passed][None, :, None]
        scores = scores[passed][None, :, None]
        areas = {"max_hole_area": max_hole_area, "max_sprinkle_area": max_sprinkle_area or None}
        areas = {name: area for name, area in areas.items() if area is not None}
        reshaped = crop.get("reshaped_input_sizes")
        for options in (areas, {}) if areas else ({},):
            masks = self.image_processor.post_process_masks(
                masks,
                crop["original_sizes"].tolist(),
                mask_threshold=mask_threshold,
                reshaped_input_sizes=None if reshaped is None else reshaped.tolist(),
                binarize=False,
                **options,
            )
        return self.image_processor.filter_masks(  # type: ignore[no-any-return]
            masks[0],
            scores[0],
            crop["full_image_size"][0].tolist(),
            crop["input_boxes"][0],
            pred_iou_thresh,
            stability_score_thresh,
            mask_threshold,
            stability_score_offset,
        )

    def _embeddings(self, pixel_values: torch.Tensor) -> dict[str, Any]:
        """What the vision encoder makes of a crop, under the names that the model's forward takes."""
        embeddings = self.model.get_image_embeddings(pixel_values)
        if isinstance(embeddings, tuple):
            image_embeddings, intermediate_embeddings, *_ = embeddings
            return {"image_embeddings": image_embeddings, "intermediate_embeddings": intermediate_embeddings}
        return {"image_embeddings": embeddings}

    def postprocess(
        self,
        model_outputs: Sequence[Any],
        crops_nms_thresh: float = 0.7,
        output_rle_mask: bool = True,
        output_bboxes_mask: bool = True,
    ) -> dict[str, Any]:
        """`rle_mask`, `scores` and `bounding_boxes` of the masks of one image that survive NMS, best first.

        Args:
            model_outputs: Those of its crops.
            crops_nms_thresh: IoU of two boxes above which the lesser mask goes.
            output_rle_mask: Always true; accepted as transformers' argument.
            output_bboxes_mask: Likewise.
        """
        counts = [mask for output in model_outputs for mask in output["counts"].split(output["num_counts"].tolist())]
        scores = torch.cat([output["iou_scores"] for output in model_outputs])
        boxes = torch.cat([output["boxes"] for output in model_outputs])
        kept = batched_nms(boxes.float(), scores.float(), torch.zeros(len(boxes)), crops_nms_thresh)
        size = model_outputs[0]["size"].tolist()
        masks = [{"size": size, "counts": counts[index].numpy()} for index in kept.tolist()]
        return {"rle_mask": masks, "scores": scores[kept], "bounding_boxes": boxes[kept]}


def _row(value: Any, row: int) -> Any:
    """What belongs to one crop of a batch, with a leading axis of 1; models nest the embeddings of several layers."""
    if isinstance(value, torch.Tensor):
        return value[row : row + 1]
    if isinstance(value, dict):
        return {name: _row(part, row) for name, part in value.items()}
    return [_row(part, row) for part in value]


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors of nested dictionaries and lists."""
    if isinstance(value, torch.Tensor):
        yield value
    else:
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)
