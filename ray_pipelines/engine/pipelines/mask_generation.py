"""mask-generation in three steps that keep to their places: crops on the CPU, the model on the device, NMS.

In transformers 5.23 `preprocess` runs the vision encoder, and a chunk is a batch of points with a copy of the image's
embedding. Here a chunk is a crop of the image. And there `crop_n_points_downscale_factor` fails unless it is 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import transformers
from torchvision.ops import batched_nms
from transformers.image_utils import load_image

__all__ = ["MaskGenerationPipeline"]


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
        """
        size = self.image_processor.size
        image = load_image(image, timeout=timeout)
        for layer in range(crops_n_layers + 1):
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

    def _forward(self, model_inputs: Any, points_per_batch: int | None = 64, **parameters: Any) -> dict[str, Any]:
        inputs = dict(model_inputs)
        points, labels = inputs.pop("input_points"), inputs.pop("input_labels")
        inputs["full_image_size"] = inputs["full_image_size"][0]
        inputs |= self._embeddings(inputs.pop("pixel_values"))
        size = points_per_batch or points.shape[1]
        made = []
        for start in range(0, points.shape[1], size):
            batch = {
                **inputs,
                "input_points": points[:, start : start + size],
                "input_labels": labels[:, start : start + size],
                "is_last": False,
            }
            made.append(super()._forward(batch, **parameters))
        counts = [rle["counts"] for part in made for rle in part["masks"]]
        return {
            "size": inputs["full_image_size"],
            "counts": torch.tensor([count for mask in counts for count in mask], dtype=torch.int32),
            "num_counts": torch.tensor([len(mask) for mask in counts], dtype=torch.int64),
            "iou_scores": torch.cat([part["iou_scores"] for part in made]),
            "boxes": torch.cat([part["boxes"] for part in made]),
        }

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
