"""text2text-generation, which transformers 5 dropped: texts from texts, by encoder-decoder models such as T5."""

from __future__ import annotations

from transformers import AutoModelForSeq2SeqLM

from ray_pipelines.engine.pipelines import register_task
from ray_pipelines.engine.pipelines._seq2seq import Seq2SeqPipeline

__all__ = ["Text2TextGenerationPipeline", "register"]


class Text2TextGenerationPipeline(Seq2SeqPipeline):
    """Generates texts from texts: a list of `{generated_text}` for each."""


def register() -> None:
    """Makes the task known to transformers."""
    default = ("google-t5/t5-base", "a9723ea")
    register_task("text2text-generation", Text2TextGenerationPipeline, (AutoModelForSeq2SeqLM,), default=default)
