"""Ends a generation between two tokens, from outside of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from transformers import GenerationMixin

__all__ = ["Abandoned", "abandon_when"]


class Abandoned(BaseException):
    """Nobody waits any more for what was being generated.

    Not an `Exception`, so that nothing takes it for a failure of a row, nor half of a text for what the model says.
    """


def abandon_when(is_over: Callable[[], bool], model: Any) -> None:
    """Makes each `generate` of a model raise `Abandoned` before its next token once `is_over()`.

    That is asked where the inputs of a step are prepared, as transformers' own loops do: not all of them take stopping
    criteria (Janus's pictures), and a hook of the model would be compiled with it. A model with a loop of its own
    (SpeechT5) is asked by hooks of its parts.

    Args:
        is_over: Asked in the thread that generates.
        model: The model; parts of it that generate by themselves (Bark's) are seen to as well.
    """

    def ask(*_: Any) -> None:
        if is_over():
            raise Abandoned

    generating = [module for module in model.modules() if isinstance(module, GenerationMixin)]
    for module in generating:
        module.prepare_inputs_for_generation = _asking(ask, module.prepare_inputs_for_generation)
    if not generating and getattr(model, "can_generate", bool)():
        for module in model.modules():
            module.register_forward_pre_hook(ask)


def _asking(ask: Callable[[], None], prepare: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(prepare)
    def asking(*args: Any, **kwargs: Any) -> Any:
        ask()
        return prepare(*args, **kwargs)

    return asking
