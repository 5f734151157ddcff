"""summarization, which transformers 5 dropped: a shorter text of each text, by models such as BART and T5."""

from __future__ import annotations

from transformers import AutoModelForSeq2SeqLM

from ray_pipelines.engine.pipelines import register_task
from ray_pipelines.engine.pipelines._seq2seq import Seq2SeqPipeline

__all__ = ["SummarizationPipeline", "register"]


class SummarizationPipeline(Seq2SeqPipeline):
    """Summarizes texts: a list of `{summary_text}` for each."""

    return_name = "summary"


def register() -> None:
    """Makes the task known to transformers."""
    default = ("sshleifer/distilbart-cnn-12-6", "a4f8f3e")
    register_task("summarization", SummarizationPipeline, (AutoModelForSeq2SeqLM,), default=default)
