"""Texts and chats with media beside or inside them, in batches that give each row what it would give alone.

Rows share a forward where nothing has to be padded: prompts of equal length (images make tokens too) and images of
equal shape, as one question about every picture of a dataset gives them. Sequences are cut to each row's own end.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils.chat_template_utils import Chat

from ray_pipelines.engine.lengths import generation_settings
from ray_pipelines.engine.pipelines._generated import end_tokens, ends_look_like_padding
from ray_pipelines.engine.pipelines._videos import take_videos, with_named_videos

if TYPE_CHECKING:
    from transformers import Pipeline
else:
    Pipeline = object

__all__ = ["ChatSteps"]

PROMPT_MASK = "prompt_mask"


class ChatSteps(Pipeline):  # type: ignore[misc]
    """The steps of a pipeline that takes a chat as the list of its messages, where transformers does in a call only.

    Source: transformers 5.23, pipelines/image_text_to_text.py and pipelines/any_to_any.py, whose steps are called.
    """

    chat_class: type = Chat
    """What the pipeline's own steps take a chat as."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        take_videos(self.processor)

    @property
    def can_batch(self) -> bool:
        """Whether the padding behind a row that has ended can be told from its own tokens."""
        return not ends_look_like_padding(self._generation)

    def preprocess(self, inputs: Any = None, **parameters: Any) -> dict[str, Any]:
        """The model inputs of a text, of `{text, images, …}`, or of the messages of a chat."""
        named = with_named_videos(inputs)
        if isinstance(inputs, list):
            encoded = {**super().preprocess(self.chat_class(named), **parameters), "text": _texts_of(inputs)}
        else:
            encoded = dict(super().preprocess(named, **parameters))
        if "attention_mask" in encoded:
            # The executor pads only what has an `attention_mask`.
            encoded[PROMPT_MASK] = encoded.pop("attention_mask")
        return encoded

    def _forward(self, model_inputs: Mapping[str, Any], generate_kwargs: Any = None) -> dict[str, Any]:
        """The sequences of one row, or of a batch: then a list under each key, one value per row."""
        inputs = {"attention_mask" if name == PROMPT_MASK else name: value for name, value in model_inputs.items()}
        outputs: dict[str, Any] = super()._forward(inputs, generate_kwargs)
        prompts = outputs["input_ids"]
        if prompts is None or len(prompts) == 1:
            return outputs
        pad, ends = _pad_token(self._generation), end_tokens(self._generation)
        sequences = [_cut(own, pad, ends) for own in outputs["generated_sequence"].split(1)]
        return {**outputs, "generated_sequence": sequences, "input_ids": list(prompts.split(1))}

    def postprocess(self, model_outputs: Mapping[str, Any], **parameters: Any) -> Any:
        """The records of one row, as transformers makes them, without the media of a chat."""
        text = model_outputs["prompt_text"]
        outputs = {**model_outputs, "prompt_text": self.chat_class(text) if isinstance(text, list) else text}
        return super().postprocess(outputs, **parameters)

    @functools.cached_property
    def _generation(self) -> dict[str, Any]:
        """The generation parameters in force."""
        return generation_settings(self)


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
    length = len(tokens)
    while length and tokens[length - 1] == pad:
        length -= 1
    is_end_padding = pad in ends and length < len(tokens)
    return length + is_end_padding
