"""Settings of a process that holds a pipeline, which libraries read when they are first imported."""

from __future__ import annotations

import logging
import os

__all__ = ["prepare_process"]


def prepare_process() -> None:
    """Keeps libraries quiet and tokenizers parallel; what the environment says already stays."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("transformers").setLevel(logging.ERROR)
