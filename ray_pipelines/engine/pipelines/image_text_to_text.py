"""image-text-to-text: texts, texts with images, and chats."""

from __future__ import annotations

import transformers

from ray_pipelines.engine.pipelines._chats import ChatSteps

__all__ = ["ImageTextToTextPipeline"]


class ImageTextToTextPipeline(ChatSteps, transformers.ImageTextToTextPipeline):  # type: ignore[misc]
    """As in transformers, with the steps of `ChatSteps`."""
