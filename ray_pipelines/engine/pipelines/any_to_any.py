"""any-to-any of one row at a time, whether it is a text, a text with media or a chat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers.pipelines import any_to_any

from ray_pipelines.engine.pipelines._chats import texts_of
from ray_pipelines.engine.pipelines._videos import take_videos, with_named_videos

__all__ = ["AnyToAnyPipeline"]


class AnyToAnyPipeline(any_to_any.AnyToAnyPipeline):  # type: ignore[misc]
    """Takes a chat as the list of its messages, where transformers does so in `__call__` only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        take_videos(self.processor)

    def preprocess(self, inputs: Any = None, **parameters: Any) -> Any:
        """The model inputs of a text, of `{text, images, videos, audio}`, or of the messages of a chat."""
        named = with_named_videos(inputs)
        if not isinstance(inputs, list):
            return super().preprocess(named, **parameters)
        return {**super().preprocess(any_to_any.Chat(named), **parameters), "text": texts_of(inputs)}

    def postprocess(self, model_outputs: Mapping[str, Any], **parameters: Any) -> Any:
        """The records of one row, as transformers makes them, without the media of a chat."""
        text = model_outputs["prompt_text"]
        outputs = {**model_outputs, "prompt_text": any_to_any.Chat(text) if isinstance(text, list) else text}
        return super().postprocess(outputs, **parameters)
