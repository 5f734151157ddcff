"""any-to-any of one row at a time, whether it is a text, a text with media or a chat."""

from __future__ import annotations

from typing import Any

from transformers.pipelines import any_to_any

__all__ = ["AnyToAnyPipeline"]


class AnyToAnyPipeline(any_to_any.AnyToAnyPipeline):  # type: ignore[misc]
    """Takes a chat as the list of its messages, where transformers does so in `__call__` only."""

    def preprocess(self, inputs: Any = None, **parameters: Any) -> Any:
        """The model inputs of a text, of `{text, images, audio}`, or of the messages of a chat."""
        return super().preprocess(any_to_any.Chat(inputs) if isinstance(inputs, list) else inputs, **parameters)
