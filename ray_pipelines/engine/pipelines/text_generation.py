"""text-generation in batches that give each row what it would give alone.

What transformers 5.23 leaves to the batch, and what is done about it here:

- rows of a batch are as long as the longest, so sequences are cut to the row's own prompt and to its own end;
- `max_length` and `min_length` count the padding, and repetition penalties and n-gram rules see padding tokens: with
  such parameters only prompts of equal length share a batch;
- some models do not mask what stands on the left of a prompt: the first padded batch is compared with one of its
  rows alone, and if the first logits differ, prompts are never padded.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from transformers.utils.chat_template_utils import Chat

from ray_pipelines.engine.lengths import generation_settings, max_tokens
from ray_pipelines.engine.pipelines._generated import end_tokens, ends_look_like_padding, own_length
from ray_pipelines.errors import InvalidInput, RowTooLarge

__all__ = ["TextGenerationPipeline"]

PADDING_MATTERS = (
    "repetition_penalty",
    "encoder_repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "sequence_bias",
    "watermarking_config",
)
LOGIT_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
HALF_LOGIT_TOLERANCE = 5e-2


class TextGenerationPipeline(transformers.TextGenerationPipeline):  # type: ignore[misc]
    """Texts and chats continued in batches, with results that do not depend on them.

    Source: transformers 5.23, pipelines/text_generation.py, whose steps are called; what differs is named above.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pads: bool | None = None
        self._max_tokens = max_tokens(self.model)

    # --- the three steps

    def preprocess(self, prompt_text: str | list[dict[str, Any]], **parameters: Any) -> dict[str, Any]:
        """The tokens of a prompt or chat.

        Returns:
            `input_ids`, `attention_mask` (called `prompt_mask` where the prompt must not be padded), `prompt_length`
            (int64[1]) and `prompt_text`.

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
        return {
            "input_ids": ids,
            "attention_mask" if self._may_pad() else "prompt_mask": mask,
            "prompt_length": torch.tensor([prompt_length]),
            "prompt_text": prompt_text,
        }

    def _forward(self, model_inputs: Mapping[str, Any], **generate_kwargs: Any) -> dict[str, Any]:
        """The sequences of each row: `generated_sequence`, int64[1, num_return_sequences, length], and `input_ids`."""
        ids, lengths = model_inputs["input_ids"], model_inputs["prompt_length"].clamp(min=1).tolist()
        mask = model_inputs.get("attention_mask", model_inputs.get("prompt_mask"))
        rows: list[torch.Tensor] = [torch.empty(0)] * len(lengths)
        for group in self._groups(ids, mask, lengths):
            width = max(lengths[row] for row in group)
            made = super()._forward(
                {"input_ids": ids[group, -width:], "attention_mask": mask[group, -width:], "prompt_text": None},
                **generate_kwargs,
            )["generated_sequence"]
            for row, sequences in zip(group, made, strict=True):
                own = sequences[:, width - lengths[row] :]
                rows[row] = self._cut(own, lengths[row])[None]
        true_lengths = model_inputs["prompt_length"].tolist()
        width = ids.shape[1]
        prompts = [ids[row : row + 1, width - length :] for row, length in enumerate(true_lengths)]
        texts = model_inputs["prompt_text"]
        if len(rows) == 1:
            return {"generated_sequence": rows[0], "input_ids": prompts[0], "prompt_text": texts}
        return {"generated_sequence": rows, "input_ids": prompts, "prompt_text": texts}

    def postprocess(self, model_outputs: Mapping[str, Any], **parameters: Any) -> Any:
        """The records of one row, as transformers makes them."""
        text = model_outputs["prompt_text"]
        outputs = {**model_outputs, "prompt_text": text if isinstance(text, str) else Chat(text)}
        return super().postprocess(outputs, **parameters)

    # --- details of preprocess

    @functools.cached_property
    def _generation(self) -> dict[str, Any]:
        """The generation parameters in force."""
        return generation_settings(self)

    def _may_pad(self) -> bool:
        """Whether prompts of unequal length may share a batch."""
        parameters = self._generation
        counts_padding = any(
            parameters.get(total) and not parameters.get(new)
            for total, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens"))
        )
        return self._pads is not False and not counts_padding and not any(parameters.get(n) for n in PADDING_MATTERS)

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

    def _groups(self, ids: torch.Tensor, mask: torch.Tensor, lengths: Sequence[int]) -> list[list[int]]:
        """Rows that are generated together: all of the batch, or those of equal length if padding matters."""
        if len(set(lengths)) > 1 and self._pads is None and self._may_pad():
            self._pads = self._ignores_padding(ids, mask, lengths)
        if ends_look_like_padding(self._generation) or self._generation.get("token_healing"):
            return [[row] for row in range(len(lengths))]
        if self._may_pad():
            return [list(range(len(lengths)))]
        by_length: dict[int, list[int]] = {}
        for row, length in enumerate(lengths):
            by_length.setdefault(length, []).append(row)
        return list(by_length.values())

    def _ignores_padding(self, ids: torch.Tensor, mask: torch.Tensor, lengths: Sequence[int]) -> bool:
        """Whether the shortest prompt has the same first logits alone as with padding on its left."""
        row = min(range(len(lengths)), key=lengths.__getitem__)
        alone, padded = (
            self.model.generate(
                input_ids=ids[row : row + 1, -width:],
                attention_mask=mask[row : row + 1, -width:],
                generation_config=transformers.GenerationConfig(
                    max_new_tokens=1,
                    do_sample=False,
                    num_beams=1,
                    num_return_sequences=1,
                    pad_token_id=self._generation.get("pad_token_id"),
                    output_logits=True,
                    return_dict_in_generate=True,
                ),
            ).logits[0]
            for width in (lengths[row], ids.shape[1])
        )
        tolerance = LOGIT_TOLERANCE.get(self.model.dtype, HALF_LOGIT_TOLERANCE)
        scale = 1.0 + float(alone.abs().max())
        return torch.allclose(alone.float(), padded.float(), rtol=0, atol=tolerance * scale, equal_nan=True)

    def _cut(self, sequences: torch.Tensor, prompt_length: int) -> torch.Tensor:
        """The sequences of one row without the padding that longer rows of the batch brought them."""
        ends = end_tokens(self._generation)
        pad = self._generation.get("pad_token_id") if self._generation.get("stop_strings") else None
        new = sequences[:, prompt_length:].tolist()
        return sequences[:, : prompt_length + max((own_length(row, ends, pad) for row in new), default=0)]
