"""visual-question-answering, which transformers 5 dropped: answers to questions about images."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForVisualQuestionAnswering, GenerationConfig, Pipeline
from transformers.models.auto.modeling_auto import MODEL_FOR_VISUAL_QUESTION_ANSWERING_MAPPING_NAMES

from ray_pipelines.engine.pipelines import register_task
from ray_pipelines.engine.pipelines._images import generate, generation_arguments, image_inputs, open_image, tokenize

__all__ = ["VisualQuestionAnsweringPipeline", "register"]

logger = logging.getLogger(__name__)


class VisualQuestionAnsweringPipeline(Pipeline):  # type: ignore[misc]
    """The best of a model's list of answers with their scores (ViLT), or an answer that it writes (BLIP).

    Source: transformers 4.57.6, pipelines/visual_question_answering.py, for what goes in and comes out. What differs:
    generation parameters are taken, questions of a batch are never padded where the model writes, BLIP-2 sees its image
    (see `tokenize`) and does not repeat the question in its answer.
    """

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = True
    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(max_new_tokens=256)
    _non_generation_params = ("top_k",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.check_model_type(MODEL_FOR_VISUAL_QUESTION_ANSWERING_MAPPING_NAMES)

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        padding: bool | str | None = None,
        truncation: bool | str | None = None,
        timeout: float | None = None,
        generate_kwargs: Mapping[str, Any] | None = None,
        **generation: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        forward = generation_arguments(generation, generate_kwargs)
        model = type(self.model).__name__
        if self.model.can_generate() and top_k is not None:
            logger.warning("top_k is ignored: %s writes its answers. See num_return_sequences.", model)
        elif forward and not self.model.can_generate():
            raise ValueError(f"{', '.join(sorted(forward))}: {model} chooses from a list of answers, and writes none.")
        preprocess = {"padding": padding, "truncation": truncation, "timeout": timeout}
        postprocess = {"top_k": top_k}
        return _without_nulls(preprocess), forward, _without_nulls(postprocess)

    def __call__(self, image: Any, question: Any = None, **kwargs: Any) -> Any:
        """Answers to one question about one image, or to every question about every image, a question at a time.

        Args:
            image: An image or several, or `{image, question}` or several of these.
            question: A question or several.
            kwargs: Parameters of this call.
        """
        if question is None:
            return super().__call__(image, **kwargs)
        if isinstance(image, str | Image.Image) and isinstance(question, str):
            return super().__call__({"image": image, "question": question}, **kwargs)
        images = [image] if isinstance(image, str | Image.Image) else image
        questions = [question] if isinstance(question, str) else question
        return super().__call__([{"image": i, "question": q} for q in questions for i in images], **kwargs)

    def preprocess(
        self,
        inputs: Mapping[str, Any],
        padding: bool | str = False,
        truncation: bool | str = False,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """The model inputs of one image with its question."""
        image = open_image(inputs["image"], timeout)
        arguments = {"padding": padding, "truncation": truncation}
        if self.model.can_generate():
            text = tokenize(self, inputs["question"], **arguments)
        else:
            text = dict(self.tokenizer(inputs["question"], return_tensors="pt", **arguments))
        return {**text, **image_inputs(self, image)}

    def _forward(self, model_inputs: Mapping[str, Any], **arguments: Any) -> dict[str, torch.Tensor]:
        """`logits`, float[batch, num_labels]; or `generated_ids`, int64[batch, num_return_sequences, length]."""
        if not self.model.can_generate():
            return {"logits": self.model(**model_inputs).logits}
        ids = generate(self, model_inputs, arguments)
        if self.model.config.model_type == "blip-2" and not self.model.language_model.config.is_encoder_decoder:
            ids = ids[:, :, model_inputs["input_ids"].shape[1] :]
        return {"generated_ids": ids}

    def postprocess(self, model_outputs: Mapping[str, torch.Tensor], top_k: int = 5) -> list[dict[str, Any]]:
        """The answers of one row, best first: `{score, answer}`, or `{answer}` from a model that writes.

        Args:
            model_outputs: Those of one row.
            top_k: How many answers of the model's list; more than there are gives all.
        """
        if "generated_ids" in model_outputs:
            texts = self.tokenizer.batch_decode(model_outputs["generated_ids"][0], skip_special_tokens=True)
            return [{"answer": text.strip()} for text in texts]
        probabilities = model_outputs["logits"][0].float().sigmoid()
        scores, labels = probabilities.topk(min(top_k, len(probabilities)))
        names = self.model.config.id2label
        return [
            {"score": score, "answer": names[label]}
            for score, label in zip(scores.tolist(), labels.tolist(), strict=True)
        ]


def _without_nulls(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}


def register() -> None:
    """Makes the task known to transformers."""
    register_task(
        "visual-question-answering",
        VisualQuestionAnsweringPipeline,
        (AutoModelForVisualQuestionAnswering,),
        default=("dandelin/vilt-b32-finetuned-vqa", "d0a1f6a"),
        modality="multimodal",
        aliases=("vqa",),
    )
