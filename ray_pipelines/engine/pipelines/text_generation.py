"""text-generation in batches that give each row what it would give alone: cut to its own prompt and its own end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from transformers.utils.chat_template_utils import Chat

from ray_pipelines.engine.lengths import max_tokens
from ray_pipelines.engine.pipelines._generated import end_tokens, own_length
from ray_pipelines.engine.pipelines._prompts import PromptSteps
from ray_pipelines.errors import InvalidInput, RowTooLarge

__all__ = ["TextGenerationPipeline"]


class TextGenerationPipeline(PromptSteps, transformers.TextGenerationPipeline):  # type: ignore[misc]
    """Texts and chats continued in batches, with results that do not depend on them.

    Source: transformers 5.23, pipelines/text_generation.py, whose steps are called.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._max_tokens = max_tokens(self.model)

    # --- the three steps

    def preprocess(self, prompt_text: str | list[dict[str, Any]], **parameters: Any) -> dict[str, Any]:
        """The tokens of a prompt or chat.

        Returns:
            As `PromptSteps.prompt` has it, and `prompt_text`.

        Raises:
            InvalidInput: The prompt is empty and the model has no token to begin with.
            RowTooLarge: Prompt and new tokens are more than the model has positions.
        """
        if "max_length" in self._generate_kwargs:
            parameters.setdefault("max_length", self._generate_kwargs["max_length"])
        is_chat = not isinstance(prompt_text, str)
        if is_chat and not getattr(self.tokenizer, "chat_template", None):
            raise InvalidInput("text: is a chat, but the model's tokenizer has no chat template.")
        encoded = super().preprocess(Chat(prompt_text) if is_chat else prompt_text, **parameters)
        ids = encoded["input_ids"]
        mask = encoded.get("attention_mask")
        prompt_length = ids.shape[1]
        if prompt_length == 0:
            ids, mask = self._first_token(), None
        mask = torch.ones_like(ids) if mask is None else mask
        self._check_length(ids.shape[1])
        prompt = self.prompt({"input_ids": ids, "attention_mask": mask})
        return {**prompt, "prompt_length": torch.tensor([prompt_length]), "prompt_text": prompt_text}

    def _forward(self, model_inputs: Mapping[str, Any], **generate_kwargs: Any) -> dict[str, Any]:
        """The sequences of each row: `generated_sequence`, int64[1, num_return_sequences, length], and `input_ids`."""

        def generate(inputs: dict[str, Any]) -> torch.Tensor:
            outputs = super(TextGenerationPipeline, self)._forward(inputs, **generate_kwargs)
            sequences: torch.Tensor = outputs["generated_sequence"]
            return sequences

        made, prompts = self.sequences(model_inputs, generate)
        lengths = model_inputs["prompt_length"].clamp(min=1).tolist()
        made = [self._cut(own, length) for own, length in zip(made, lengths, strict=True)]
        is_batch = len(made) > 1
        return {
            "generated_sequence": made if is_batch else made[0],
            "input_ids": prompts if is_batch else prompts[0],
            "prompt_text": model_inputs["prompt_text"],
        }

    def postprocess(self, model_outputs: Mapping[str, Any], **parameters: Any) -> Any:
        """The records of one row, as transformers makes them."""
        text = model_outputs["prompt_text"]
        outputs = {**model_outputs, "prompt_text": text if isinstance(text, str) else Chat(text)}
        return super().postprocess(outputs, **parameters)

    # --- details of preprocess

    def _first_token(self) -> torch.Tensor:
        token = self._generation.get("bos_token_id")
        if token is None:
            raise InvalidInput("text: is empty, and the model has no token to begin a text with.")
        return torch.tensor([[token]])

    def _check_length(self, num_tokens: int) -> None:
        """Refuses what would index positions that do not exist, which on a GPU costs the whole process."""
        if self._max_tokens is None:
            return
        parameters = self._generation
        num_new = parameters.get("max_new_tokens")
        total = num_tokens + num_new if num_new else max(parameters.get("max_length") or 0, num_tokens)
        # The last new token is never fed back.
        if total - 1 > self._max_tokens:
            raise RowTooLarge(
                f"text: has {num_tokens:,} tokens, and up to {total - num_tokens:,} are to be made; the model takes "
                f"{self._max_tokens:,}. Set a smaller max_new_tokens, or handle_long_generation: hole."
            )

    # --- details of forward

    def _cut(self, sequences: torch.Tensor, prompt_length: int) -> torch.Tensor:
        """The sequences of one row, `int64[1, number, length]`, without what longer rows of the batch brought them."""
        ends = end_tokens(self._generation)
        pad = self._generation.get("pad_token_id") if self._generation.get("stop_strings") else None
        new = sequences[0, :, prompt_length:].tolist()
        return sequences[..., : prompt_length + max((own_length(row, ends, pad) for row in new), default=0)]
