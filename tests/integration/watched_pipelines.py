"""Pipelines that note which node has worked on what, and wait where a test wants to do something meanwhile.

A node's environment has its name (`TEST_NODE`) and the folder of the notes (`TEST_NOTES`).
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import transformers

from tests.ray_nodes import GO, WAITING


def note(stage: str) -> None:
    """Notes that this process has worked on a row."""
    Path(os.environ["TEST_NOTES"], f"{stage} {os.environ['TEST_NODE']} {os.getpid()}").touch()


def waited(text: str) -> str:
    """The text of a row, once the test lets it go on."""
    note("preprocess")
    while text.startswith(WAITING) and not Path(os.environ["TEST_NOTES"], GO).exists():
        time.sleep(0.05)
    return text.removeprefix(WAITING)


class WatchedPipeline(transformers.TextClassificationPipeline):
    """One forward for each row."""

    def preprocess(self, inputs: str, **arguments: Any) -> Any:
        return super().preprocess(waited(inputs), **arguments)

    def _forward(self, model_inputs: Any, **arguments: Any) -> Any:
        note("forward")
        return super()._forward(model_inputs, **arguments)

    def postprocess(self, model_outputs: Any, **arguments: Any) -> Any:
        note("postprocess")
        return super().postprocess(model_outputs, **arguments)


class WatchedChunks(transformers.ZeroShotClassificationPipeline):
    """A forward for each of a row's labels."""

    def _forward(self, inputs: Any, **arguments: Any) -> Any:
        note("forward")
        while not Path(os.environ["TEST_NOTES"], GO).exists():
            time.sleep(0.05)
        return super()._forward(inputs, **arguments)
