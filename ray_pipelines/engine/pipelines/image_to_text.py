"""image-to-text, which transformers 5 dropped: captions of images, with or without a given beginning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, GenerationConfig, Pipeline
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from ray_pipelines.engine.batching import hide_mask
from ray_pipelines.engine.pipelines import register_task
from ray_pipelines.engine.pipelines._images import (
    generate,
    generation_arguments,
    image_inputs,
    open_image,
    tokenize,
)
from ray_pipelines.errors import InvalidInput

__all__ = ["ImageToTextPipeline", "register"]


class ImageToTextPipeline(Pipeline):  # type: ignore[misc]
    """What a model writes about each image.

    Source: transformers 4.57.6, pipelines/image_to_text.py, for what goes in and comes out. What differs: every
    generation parameter is taken, prompts of a batch are never padded, BLIP-2 sees its image beside a prompt (see
    `tokenize`), a `max_length` that the user sets is not overruled by the default `max_new_tokens`.
    """

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = True
    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(max_new_tokens=256)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.check_model_type(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)

    def _sanitize_parameters(
        self,
        prompt: str | None = None,
        timeout: float | None = None,
        generate_kwargs: Mapping[str, Any] | None = None,
        **generation: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        forward = generation_arguments(generation, generate_kwargs)
        if prompt is not None:
            self._check_prompt(prompt)
        preprocess = {"prompt": prompt, "timeout": timeout}
        return {name: value for name, value in preprocess.items() if value is not None}, forward, {}

    def __call__(self, inputs: Any = None, **kwargs: Any) -> Any:
        """The captions of an image, or of several.

        Args:
            inputs: PIL images, paths, URLs or base64; `images` is another name for it.
            kwargs: Parameters of this call.
        """
        inputs = kwargs.pop("images", inputs)
        if inputs is None:
            raise ValueError("inputs: expected an image or several; got None.")
        return super().__call__(inputs, **kwargs)

    def preprocess(self, image: Any, prompt: str | None = None, timeout: float | None = None) -> dict[str, Any]:
        """The model inputs of one image.

        Args:
            image: PIL image, path, URL, base64 or array.
            prompt: The beginning of the caption, or a question, if the model takes one.
            timeout: Seconds to wait for a URL.

        Raises:
            InvalidInput: The model takes no prompt.
        """
        image = open_image(image, timeout)
        if prompt is None:
            return image_inputs(self, image)
        self._check_prompt(prompt)
        kind = self.model.config.model_type
        if kind == "pix2struct":
            return image_inputs(self, image, header_text=prompt)
        if kind == "git":
            ids = [self.tokenizer.cls_token_id, *self.tokenizer(prompt, add_special_tokens=False)["input_ids"]]
            tokens = torch.tensor([ids])
            text = hide_mask({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})
            return {**image_inputs(self, image), **text}
        return {**image_inputs(self, image), **tokenize(self, prompt)}

    def _check_prompt(self, prompt: Any) -> None:
        if not isinstance(prompt, str):
            raise InvalidInput(f"prompt: expected a string; got {type(prompt).__name__}.")
        if self.model.config.model_type == "vision-encoder-decoder":
            raise InvalidInput("prompt: a VisionEncoderDecoderModel takes none. Drop it, or take another model.")

    def _forward(self, model_inputs: Mapping[str, Any], **arguments: Any) -> dict[str, torch.Tensor]:
        """`generated_ids`, int64[batch, num_return_sequences, length]."""
        return {"generated_ids": generate(self, model_inputs, arguments)}

    def postprocess(self, model_outputs: Mapping[str, torch.Tensor]) -> list[dict[str, str]]:
        """The captions of one image, `{generated_text}`."""
        texts = self.tokenizer.batch_decode(model_outputs["generated_ids"][0], skip_special_tokens=True)
        return [{"generated_text": text} for text in texts]


def register() -> None:
    """Makes the task known to transformers."""
    register_task(
        "image-to-text",
        ImageToTextPipeline,
        (AutoModelForImageTextToText,),
        default=("ydshieh/vit-gpt2-coco-en", "5bebf1e"),
        modality="multimodal",
    )
