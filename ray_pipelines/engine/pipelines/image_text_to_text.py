"""image-text-to-text of one row at a time, whether it is a text, a text with images or a chat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers
from transformers.utils.chat_template_utils import Chat

from ray_pipelines.engine.pipelines._chats import texts_of

__all__ = ["ImageTextToTextPipeline"]


class ImageTextToTextPipeline(transformers.ImageTextToTextPipeline):  # type: ignore[misc]
    """Takes a chat as the list of its messages, where transformers does so in `__call__` only."""

    def preprocess(self, inputs: Any = None, **parameters: Any) -> Any:
        """The model inputs of a text, of `{text, images}`, or of the messages of a chat."""
        if not isinstance(inputs, list):
            return super().preprocess(inputs, **parameters)
        return {**super().preprocess(Chat(inputs), **parameters), "text": texts_of(inputs)}

    def postprocess(self, model_outputs: Mapping[str, Any], **parameters: Any) -> Any:
        """The records of one row, as transformers makes them, without the media of a chat."""
        text = model_outputs["prompt_text"]
        outputs = {**model_outputs, "prompt_text": Chat(text) if isinstance(text, list) else text}
        return super().postprocess(outputs, **parameters)
