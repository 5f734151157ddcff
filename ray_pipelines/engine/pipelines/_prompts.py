"""Prompts of unequal length in one batch of `generate`: padded on their left where that changes nothing, and cut back.

What transformers 5.23 leaves to the batch, and what is done about it here:

- `max_length` and `min_length` count the padding, and rules about sequences of tokens see it: with such parameters
  only prompts of equal length share a batch (a repetition penalty passes over what the mask leaves out);
- some models do not mask what stands on the left of a prompt: the first padded batch is compared with one of its
  rows alone, and if the first logits differ, prompts are never padded;
- where a stop string has ended a row, the padding behind it cannot be told from an end token without a token of its
  own: such rows run alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ray_pipelines.engine.batching import OF_TOKENS, hide_mask, restore_mask
from ray_pipelines.engine.lengths import generation_settings
from ray_pipelines.engine.pipelines._generated import KnowsPadding, ends_look_like_padding, have_same_logits

__all__ = ["PromptSteps", "of_rows"]

SEE_PADDING = {
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "sequence_bias": None,
    "watermarking_config": None,
}
"""Parameters whose rules see the padding before a prompt, with the values that do nothing."""
TEXTS = ("text", "prompt_text")
"""What goes with a prompt for its records only."""


class PromptSteps(KnowsPadding):
    """What pipelines that go on from prompts have in common."""

    @property
    def can_batch(self) -> bool:
        """Whether the padding behind a row that has ended can be told from its own tokens."""
        settings = self._generation
        return not ends_look_like_padding(settings) and not settings.get("token_healing")

    def _prepare_generate_kwargs(self, generate_kwargs: dict[str, Any], **overrides: Any) -> dict[str, Any]:
        arguments: dict[str, Any] = super()._prepare_generate_kwargs(generate_kwargs, **overrides)
        if self._get_set_generation_params(arguments).get("token_healing"):
            arguments.setdefault("tokenizer", self.tokenizer)
        return arguments

    def prompt(self, encoded: Mapping[str, Any]) -> dict[str, Any]:
        """A prompt's model inputs, ready for a batch.

        Args:
            encoded: `input_ids`, and whatever else the model takes.

        Returns:
            Also `prompt_length`, int64[1], which is 0 where a prompt without tokens had to be begun, and `num_media`,
            the length along axis 0 of each tensor that does not go with the tokens: images, their patches, recordings.
            The `attention_mask` is hidden where the prompt must not be padded.
        """
        # Labels are for training; PaliGemma's processor makes them all the same.
        inputs = {name: value for name, value in encoded.items() if name != "labels"}
        if not self._may_pad():
            inputs = hide_mask(inputs)
        tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        num_media = {name: len(value) for name, value in tensors.items() if name not in OF_TOKENS}
        return {**inputs, "prompt_length": torch.tensor([inputs["input_ids"].shape[1]]), "num_media": num_media}

    def sequences(
        self, prompts: Mapping[str, Any], generate: Callable[[dict[str, Any]], torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """What is generated for each of a batch of prompts, and the tokens of each prompt, both without padding before.

        Args:
            prompts: Of `prompt`, one or a batch of them.
            generate: Takes model inputs, and gives `int64[size, length]` or `int64[size, number, length]`.

        Returns:
            For each row `int64[1, length]` or `int64[1, number, length]`, and `int64[1, prompt_length]`.
        """
        ids, own_lengths = prompts["input_ids"], prompts["prompt_length"].tolist()
        lengths = [max(1, length) for length in own_lengths]
        found: list[torch.Tensor] = [torch.empty(0)] * len(lengths)
        for rows in self._groups(prompts, lengths):
            width = max(lengths[row] for row in rows)
            made = generate(of_rows(prompts, rows, width))
            for row, own in zip(rows, torch.split(made, 1), strict=True):
                padding = width - lengths[row]
                is_padded = padding > 0 and own.shape[-1] >= width
                has_prompt = is_padded and bool((own[..., :width] == ids[row, -width:]).all())
                found[row] = own[..., padding:] if has_prompt else own
        return found, [ids[row : row + 1, ids.shape[1] - length :] for row, length in enumerate(own_lengths)]

    @functools.cached_property
    def _generation(self) -> dict[str, Any]:
        """The generation parameters in force."""
        return generation_settings(self)

    def _may_pad(self) -> bool:
        """Whether prompts of unequal length may share a batch."""
        settings = self._generation
        counts_padding = any(
            settings.get(total) and not settings.get(new)
            for total, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens"))
        )
        can_mask = self._pads is not False and not self.model.config.is_encoder_decoder
        return (
            can_mask and not counts_padding and all(settings.get(n) in (None, idle) for n, idle in SEE_PADDING.items())
        )

    def _groups(self, prompts: Mapping[str, Any], lengths: Sequence[int]) -> list[list[int]]:
        """Rows that are generated together: all of the batch, or those of equal length if padding matters."""
        if len(set(lengths)) > 1 and self._pads is None and self._may_pad():
            self._pads = self._ignores_padding(prompts, lengths)
        if self._may_pad():
            return [list(range(len(lengths)))]
        by_length: dict[int, list[int]] = {}
        for row, length in enumerate(lengths):
            by_length.setdefault(length, []).append(row)
        return list(by_length.values())

    def _ignores_padding(self, prompts: Mapping[str, Any], lengths: Sequence[int]) -> bool:
        """Whether the shortest prompt has the same first logits alone as with padding on its left."""
        row = min(range(len(lengths)), key=lengths.__getitem__)
        inputs = {name: value for name, value in prompts.items() if name not in TEXTS}
        alone, padded = (of_rows(inputs, [row], width) for width in (lengths[row], max(lengths)))
        return have_same_logits(self.model, alone, padded, self._generation.get("pad_token_id"))


def of_rows(prompts: Mapping[str, Any], rows: Sequence[int], width: int = 0) -> dict[str, Any]:
    """The model inputs of some rows of a batch, as `generate` takes them.

    Args:
        prompts: Of `PromptSteps.prompt`, one or a batch of them.
        rows: Which of them, in order.
        width: How many of their last tokens; 0 for all.

    >>> batch = {"input_ids": torch.tensor([[0, 5], [6, 7]]), "pixels": torch.arange(3)[:, None]}
    >>> batch |= {"prompt_length": torch.tensor([1, 2]), "num_media": [{"pixels": 1}, {"pixels": 2}]}
    >>> {name: value.tolist() for name, value in of_rows(batch, [1], 2).items()}
    {'input_ids': [[6, 7]], 'pixels': [[1], [2]]}
    """
    ids, num_media = prompts["input_ids"], prompts["num_media"]
    prompts = {name: value for name, value in prompts.items() if name not in ("prompt_length", "num_media")}
    if len(rows) == len(ids) and width in (0, ids.shape[1]):
        # All of them: images are not copied.
        return restore_mask(prompts)
    num_media = num_media if isinstance(num_media, list) else [num_media]
    selected: dict[str, Any] = {}
    for name, value in prompts.items():
        if not isinstance(value, torch.Tensor):
            selected[name] = [value[row] for row in rows] if len(num_media) > 1 else value
        elif name in OF_TOKENS:
            selected[name] = value[rows, -width:]
        else:
            own = torch.split(value, [media[name] for media in num_media])
            selected[name] = torch.cat([own[row] for row in rows])
    return restore_mask(selected)
