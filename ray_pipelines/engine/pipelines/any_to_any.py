"""any-to-any of one row at a time, whether it is a text, a text with media or a chat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image
from transformers.pipelines import any_to_any

from ray_pipelines.engine.pipelines._chats import texts_of
from ray_pipelines.engine.pipelines._videos import take_videos, with_named_videos

__all__ = ["AnyToAnyPipeline"]


class AnyToAnyPipeline(any_to_any.AnyToAnyPipeline):  # type: ignore[misc]
    """Takes a chat as the list of its messages, where transformers does so in `__call__` only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        take_videos(self.processor)

    def _sanitize_parameters(self, **parameters: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """As in transformers, but the processor is told what is to be generated too."""
        preprocess, forward, postprocess = super()._sanitize_parameters(**parameters)
        if parameters.get("generation_mode") == "image" and hasattr(self.processor, "generation_mode"):
            asked = preprocess.get("processor_kwargs") or {}
            preprocess["processor_kwargs"] = {"generation_mode": "image", **asked}
        return preprocess, forward, postprocess

    def _forward(self, model_inputs: Any, generate_kwargs: Any = None) -> dict[str, Any]:
        """As in transformers, but images are decoded here, where the model's weights are."""
        outputs: dict[str, Any] = super()._forward(model_inputs, generate_kwargs)
        if (generate_kwargs or {}).get("generation_mode") == "image" and hasattr(self.model, "decode_image_tokens"):
            outputs["generated_sequence"] = self.model.decode_image_tokens(outputs["generated_sequence"])
        return outputs

    def preprocess(self, inputs: Any = None, **parameters: Any) -> Any:
        """The model inputs of a text, of `{text, images, videos, audio}`, or of the messages of a chat."""
        named = with_named_videos(inputs)
        if not isinstance(inputs, list):
            return super().preprocess(named, **parameters)
        return {**super().preprocess(any_to_any.Chat(named), **parameters), "text": texts_of(inputs)}

    def postprocess(self, model_outputs: Mapping[str, Any], **parameters: Any) -> Any:
        """The records of one row, as transformers makes them, without the media of a chat."""
        if parameters.get("generation_mode") == "image":
            pixels = self.processor.postprocess(list(model_outputs["generated_sequence"].float()))["pixel_values"]
            return [{"generated_image": Image.fromarray(one.permute(1, 2, 0).numpy())} for one in pixels]
        text = model_outputs["prompt_text"]
        outputs = {**model_outputs, "prompt_text": any_to_any.Chat(text) if isinstance(text, list) else text}
        return super().postprocess(outputs, **parameters)
