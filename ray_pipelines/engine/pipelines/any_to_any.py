"""any-to-any: texts, texts with media, and chats; what is generated is text or pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image
from transformers.pipelines import any_to_any

from ray_pipelines.engine.pipelines._chats import ChatSteps

__all__ = ["AnyToAnyPipeline"]


class AnyToAnyPipeline(ChatSteps, any_to_any.AnyToAnyPipeline):  # type: ignore[misc]
    """As in transformers, with the steps of `ChatSteps`; rows for which a picture is generated run one by one."""

    chat_class = any_to_any.Chat

    @property
    def can_batch(self) -> bool:
        """Whether texts are generated, and the padding behind one that has ended can be told from its own tokens."""
        return not self._makes_pictures(self._forward_params.get("generate_kwargs")) and super().can_batch

    def _sanitize_parameters(self, **parameters: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """As in transformers, but the processor is told what is to be generated too."""
        preprocess, forward, postprocess = super()._sanitize_parameters(**parameters)
        if parameters.get("generation_mode") == "image" and hasattr(self.processor, "generation_mode"):
            asked = preprocess.get("processor_kwargs") or {}
            preprocess["processor_kwargs"] = {"generation_mode": "image", **asked}
        return preprocess, forward, postprocess

    def _forward(self, model_inputs: Mapping[str, Any], generate_kwargs: Any = None) -> dict[str, Any]:
        """As in transformers, but images are decoded here, where the model's weights are."""
        outputs = super()._forward(model_inputs, generate_kwargs)
        if self._makes_pictures(generate_kwargs) and hasattr(self.model, "decode_image_tokens"):
            outputs["generated_sequence"] = self.model.decode_image_tokens(outputs["generated_sequence"])
        return outputs

    def postprocess(self, model_outputs: Mapping[str, Any], **parameters: Any) -> Any:
        """The records of one row, as transformers makes them, without the media of a chat."""
        if parameters.get("generation_mode") == "image":
            pixels = self.processor.postprocess(list(model_outputs["generated_sequence"].float()))["pixel_values"]
            return [{"generated_image": Image.fromarray(one.permute(1, 2, 0).numpy())} for one in pixels]
        return super().postprocess(model_outputs, **parameters)

    @staticmethod
    def _makes_pictures(generate_kwargs: Mapping[str, Any] | None) -> bool:
        return (generate_kwargs or {}).get("generation_mode") == "image"
