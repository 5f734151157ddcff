"""Texts and chats with media beside or inside them, in batches that give each row what it would give alone.

Rows share a forward whatever the lengths of their prompts (images make tokens too) and however many images each has, if
the images are of equal shape: patches of pixels, as Qwen's models take them, always are. Sequences are cut to each
row's own prompt and its own end.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from transformers.utils.chat_template_utils import Chat

from ray_pipelines.engine.pipelines._generated import end_tokens, length_before
from ray_pipelines.engine.pipelines._prompts import PromptSteps, of_rows
from ray_pipelines.engine.pipelines._videos import take_videos, with_named_videos
from ray_pipelines.errors import InvalidInput
from ray_pipelines.tasks._multimodal import FIELDS_OF_PARTS

__all__ = ["ChatSteps"]

PROCESSORS = {
    "image": ("image_processor",),
    "video": ("video_processor",),
    "audio": ("feature_extractor", "audio_processor"),
}
"""Parts of a processor that take a kind of media, also where the model's class does not name it (SmolVLM's videos)."""


class ChatSteps(PromptSteps):
    """The steps of a pipeline that takes a chat as the list of its messages, where transformers does in a call only.

    Source: transformers 5.23, pipelines/image_text_to_text.py and pipelines/any_to_any.py, whose steps are called.
    """

    chat_class: type = Chat
    """What the pipeline's own steps take a chat as."""

    joins_media = True
    """Whether images and recordings of several rows are joined along axis 0, of which a row may have any number."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        take_videos(self.processor)
        if self.tokenizer is not None and not self.model.config.is_encoder_decoder:
            self.tokenizer.padding_side = "left"

    def preprocess(self, inputs: Any = None, **parameters: Any) -> dict[str, Any]:
        """The model inputs of a text, of `{text, images, …}`, or of the messages of a chat.

        Raises:
            InvalidInput: It holds a medium of a kind that the model does not take, which transformers leaves out.
        """
        self._check_kinds(inputs)
        # Processors leave what belongs to one row in the dictionaries that they are given.
        parameters = copy.deepcopy(parameters)
        named = with_named_videos(inputs)
        if isinstance(inputs, list):
            encoded = {**super().preprocess(self.chat_class(named), **parameters), "text": _texts_of(inputs)}
        else:
            encoded = dict(super().preprocess(named, **parameters))
        return self.prompt(encoded) if "input_ids" in encoded else encoded

    def _forward(self, model_inputs: Mapping[str, Any], generate_kwargs: Any = None) -> dict[str, Any]:
        """The sequences of one row, or of a batch: then a list under each key, one value per row."""
        outputs: dict[str, Any]
        if "input_ids" not in model_inputs:
            outputs = super()._forward(dict(model_inputs), generate_kwargs)
            return outputs
        if len(model_inputs["prompt_length"]) == 1:
            outputs = super()._forward(of_rows(model_inputs, [0]), generate_kwargs)
            return outputs

        def generate(inputs: dict[str, Any]) -> torch.Tensor:
            sequences: torch.Tensor = super(ChatSteps, self)._forward(inputs, generate_kwargs)["generated_sequence"]
            return sequences

        made, prompts = self.sequences(model_inputs, generate)
        pad, ends = _pad_token(self._generation), end_tokens(self._generation)
        return {
            "generated_sequence": [_cut(own, pad, ends) for own in made],
            "input_ids": prompts,
            "prompt_text": model_inputs["text"],
        }

    def postprocess(self, model_outputs: Mapping[str, Any], **parameters: Any) -> Any:
        """The records of one row, as transformers makes them, without the media of a chat."""
        text = model_outputs["prompt_text"]
        outputs = {**model_outputs, "prompt_text": self.chat_class(text) if isinstance(text, list) else text}
        return super().postprocess(outputs, **parameters)

    def _check_kinds(self, inputs: Any) -> None:
        for kind in sorted(_kinds_of(inputs).difference(self.model.input_modalities)):
            if all(getattr(self.processor, name, None) is None for name in PROCESSORS[kind]):
                raise InvalidInput(f"{kind}: expected none, as the model does not take any; got one.")


def _kinds_of(inputs: Any) -> set[str]:
    """The kinds of media in a chat, or beside a text.

    >>> _kinds_of([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi"}]}])
    {'image'}
    """
    if isinstance(inputs, list):
        return {part["type"] for message in inputs for part in message["content"]} - {"text"}
    beside = inputs if isinstance(inputs, Mapping) else {}
    return {kind for field, kind in FIELDS_OF_PARTS.items() if beside.get(field) is not None}


def _texts_of(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with the texts of their contents alone: all that a reply is put together from.

    >>> _texts_of([{"role": "user", "content": [{"type": "image", "image": None}, {"type": "text", "text": "Hi"}]}])
    [{'role': 'user', 'content': [{'type': 'text', 'text': 'Hi'}]}]
    """
    return [
        {"role": message["role"], "content": [part for part in message["content"] if part["type"] == "text"]}
        for message in messages
    ]


def _pad_token(settings: Mapping[str, Any]) -> int | None:
    """What `generate` puts behind a row that has ended: without a token for that, the first end token."""
    ends = settings.get("eos_token_id")
    pad = settings.get("pad_token_id")
    return pad if pad is not None else ends if isinstance(ends, int) else next(iter(ends or ()), None)


def _cut(sequences: torch.Tensor, pad: int | None, ends: Set[int]) -> torch.Tensor:
    """The sequences of one row, `int64[1, length]` or `[1, number, length]`, without padding behind all of them.

    >>> _cut(torch.tensor([[7, 5, 2, 0, 0]]), pad=0, ends={2})
    tensor([[7, 5, 2]])
    >>> _cut(torch.tensor([[7, 5, 2, 2, 2]]), pad=2, ends={2})
    tensor([[7, 5, 2]])
    """
    length = max(_length_without_padding(tokens, pad, ends) for tokens in sequences.flatten(0, -2).tolist())
    return sequences[..., :length]


def _length_without_padding(tokens: Sequence[int], pad: int | None, ends: Set[int]) -> int:
    length = length_before(pad, tokens)
    is_end_padding = pad in ends and length < len(tokens)
    return length + is_end_padding
