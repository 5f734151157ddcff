"""image-text-to-text of one row at a time, whether it is a text, a text with images or a chat."""

from __future__ import annotations

from typing import Any

import transformers
from transformers.utils.chat_template_utils import Chat

__all__ = ["ImageTextToTextPipeline"]


class ImageTextToTextPipeline(transformers.ImageTextToTextPipeline):  # type: ignore[misc]
    """Takes a chat as the list of its messages, where transformers does so in `__call__` only."""

    def preprocess(self, inputs: Any = None, **parameters: Any) -> Any:
        """The model inputs of a text, of `{text, images}`, or of the messages of a chat."""
        return super().preprocess(Chat(inputs) if isinstance(inputs, list) else inputs, **parameters)
