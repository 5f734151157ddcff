"""What a process that holds a pipeline does before and while it imports libraries and loads a model."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
from collections.abc import Iterator

__all__ = ["loading_process", "prepare_process", "without_collection"]


def prepare_process() -> None:
    """Keeps libraries quiet and tokenizers parallel; what the environment says already stays."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("transformers").setLevel(logging.ERROR)


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Lets the garbage collector rest while libraries are imported, which make objects that stay, but no garbage.

    It would look through all of them again and again, which is a fifth of the time that these imports take.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def loading_process() -> Iterator[None]:
    """The start of a process that is there for its pipeline: what the block has made is never looked through again."""
    prepare_process()
    with without_collection():
        yield
        gc.freeze()
