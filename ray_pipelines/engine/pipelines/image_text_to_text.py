"""image-text-to-text of one row at a time, whether it is a text, a text with images or a chat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers
from transformers.utils.chat_template_utils import Chat

from ray_pipelines.engine.pipelines._chats import texts_of
from ray_pipelines.engine.pipelines._videos import take_videos, with_named_videos

__all__ = ["ImageTextToTextPipeline"]


class ImageTextToTextPipeline(transformers.ImageTextToTextPipeline):  # type: ignore[misc]
    """Takes a chat as the list of its messages, where transformers does so in `__call__` only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        take_videos(self.processor)

    def preprocess(self, inputs: Any = None, **parameters: Any) -> Any:
        """The model inputs of a text, of `{text, images}`, or of the messages of a chat."""
        named = with_named_videos(inputs)
        if not isinstance(inputs, list):
            return super().preprocess(named, **parameters)
        return {**super().preprocess(Chat(named), **parameters), "text": texts_of(inputs)}

    def postprocess(self, model_outputs: Mapping[str, Any], **parameters: Any) -> Any:
        """The records of one row, as transformers makes them, without the media of a chat."""
        text = model_outputs["prompt_text"]
        outputs = {**model_outputs, "prompt_text": Chat(text) if isinstance(text, list) else text}
        return super().postprocess(outputs, **parameters)
