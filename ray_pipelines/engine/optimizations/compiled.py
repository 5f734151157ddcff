"""The model as compiled graphs (`torch.compile`), few of them.

A graph takes seconds to minutes to compile, so not every shape of a batch may be a new one. On a CPU one graph serves
all shapes (and another one batches of one row). On a GPU graphs of fixed shapes are faster: token lengths go up to the
next of 16, 24, 32, 48, 64, … with masked padding, and the number of rows to the next of 1, 2, 3, 4, 6, 8, 12, … with
copies of the last row; outputs are cut back. What compiling takes is counted as warm-up, not as forwards.

The first batch whose tokens are padded further is compared with itself as it was, not compiled: where they differ
(convolutions across tokens, masks that a model ignores), lengths stay as they are. A graph that cannot be compiled is
a warning, and the model runs as it was from then on.
"""

from __future__ import annotations

import bisect
import logging
import os
import shutil
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException
from transformers import Pipeline
from transformers.utils import ModelOutput

from ray_pipelines.engine.batching import Padding, num_tokens
from ray_pipelines.engine.closeness import are_close
from ray_pipelines.engine.lengths import max_tokens
from ray_pipelines.engine.steps import Steps
from ray_pipelines.errors import ModelLoadError

__all__ = ["CompiledSteps", "check_compiler", "compile_model", "rounded_up"]

logger = logging.getLogger(__name__)

SMALLEST_LENGTH = 16
MAX_GRAPHS = 256


def check_compiler() -> None:
    """Refuses a machine that cannot compile for its CPU.

    Raises:
        ModelLoadError: There is no C++ compiler, or Python's headers are missing.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise ModelLoadError(
            f"optimize.compile: expected a C++ compiler on a CPU; there is no {compiler!r}. Install one (g++), name it "
            "with CXX, or drop it."
        )
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not headers.exists():
        raise ModelLoadError(
            f"optimize.compile: expected Python's headers on a CPU; there is no {headers}. Install "
            "python3-dev, or drop it."
        )


def compile_model(pipe: Pipeline) -> None:
    """Compiles the pipeline's model in place; graphs are made when their shapes first come.

    Raises:
        ModelLoadError: The pipeline generates, token by token.
    """
    if getattr(pipe, "_pipeline_calls_generate", False) and pipe.model.can_generate():
        raise ModelLoadError(
            f"optimize.compile: expected a model that runs once per batch; {pipe.task} generates token by token with "
            f"{type(pipe.model).__name__}. Drop it."
        )
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_GRAPHS)
    torch._dynamo.config.accumulated_recompile_limit = max(torch._dynamo.config.accumulated_recompile_limit, MAX_GRAPHS)
    pipe.model.compile(dynamic=pipe.device.type == "cpu")


def rounded_up(number: int, smallest: int = 1) -> int:
    """The next of smallest x 1, 1.5, 2, 3, 4, 6, 8, 12, … that is whole and not below `number`.

    >>> [rounded_up(number) for number in (1, 3, 5, 9, 100)]
    [1, 3, 6, 12, 128]
    >>> rounded_up(5, smallest=16), rounded_up(17, smallest=16)
    (16, 24)
    """
    steps = [smallest]
    while steps[-1] < number:
        power = smallest << (len(steps) // 2)
        step = power + power // 2 if len(steps) % 2 else power
        steps.append(step)
    return steps[bisect.bisect_left(steps, number)]


class CompiledSteps(Steps):
    """Steps whose forwards go through compiled graphs."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.rounds_shapes = self.pipe.device.type != "cpu"
        self._model_tokens = max_tokens(self.pipe.model)
        self._is_compiled = True
        self._widens = True
        self._widening_is_checked = False

    def _forward(self, inputs: Any) -> Any:
        if not self._is_compiled or not isinstance(inputs, Mapping):
            return super()._forward(inputs)
        wide, size, length = self._widened(inputs) if self.rounds_shapes else (inputs, 0, None)
        start_s, num_graphs = time.perf_counter(), _num_graphs()
        try:
            outputs = super()._forward(wide)
        except TorchDynamoException as error:
            self._is_compiled = False
            self.pipe.model._compiled_call_impl = None
            logger.warning(
                "optimize.compile: a graph cannot be compiled (%s); the model runs as it is.", _reason(error)
            )
            return super()._forward(inputs)
        if _num_graphs() > num_graphs:
            self.num_graphs += _num_graphs() - num_graphs
            self.warmup_s += time.perf_counter() - start_s
        outputs = self._narrowed(outputs, wide, size, length)
        if length is not None and num_tokens(wide) != length and not self._widening_is_checked:
            return self._checked_widening(inputs, outputs)
        return outputs

    def _checked_widening(self, inputs: Any, outputs: Any) -> Any:
        """The outputs, if those of the inputs as they are, not compiled, are the same; else the latter."""
        self._widening_is_checked = True
        compiled, self.pipe.model._compiled_call_impl = self.pipe.model._compiled_call_impl, None
        try:
            plain = super()._forward(inputs)
        finally:
            self.pipe.model._compiled_call_impl = compiled
        if are_close(plain, outputs, self.is_exact):
            return outputs
        self._widens = False
        logger.warning("optimize.compile: padding changes this model's results; each length has a graph of its own.")
        return plain

    def _widened(self, inputs: Mapping[str, Any]) -> tuple[Mapping[str, Any], int, int | None]:
        """The inputs at rounded shapes, with their own number of rows and tokens (None where tokens are not padded)."""
        tensors = [value for value in inputs.values() if isinstance(value, torch.Tensor) and value.ndim]
        sizes = {value.shape[0] for value in tensors}
        if len(sizes) != 1:
            return inputs, 0, None
        (size,) = sizes
        length = self._paddable_length(inputs)
        wide = dict(inputs)
        if length is not None:
            target = rounded_up(length, SMALLEST_LENGTH)
            target = max(length, min(target, self._model_tokens or target))
            wide = {name: _longer(name, value, length, target, self.padding) for name, value in wide.items()}
        num_rows = rounded_up(size)
        return {name: _more_rows(value, size, num_rows) for name, value in wide.items()}, size, length

    def _paddable_length(self, inputs: Mapping[str, Any]) -> int | None:
        has_mask = isinstance(inputs.get("attention_mask"), torch.Tensor)
        is_text = isinstance(inputs.get("input_ids"), torch.Tensor) and "input_ids" in self.padding.values
        return num_tokens(inputs) if self._widens and has_mask and is_text else None

    def _narrowed(self, outputs: Any, wide: Mapping[str, Any], size: int, length: int | None) -> Any:
        """The outputs of the rows and tokens that were asked for."""
        if not size:
            return outputs
        num_rows = rounded_up(size)
        wide_length = num_tokens(wide)
        cut: dict[str, Any] = {}
        for name, value in outputs.items():
            if isinstance(value, torch.Tensor) and value.ndim and value.shape[0] == num_rows:
                value = value[:size]
                is_padded = length is not None and wide_length != length and value.ndim >= 2
                if is_padded and value.shape[1] == wide_length and (self.is_sequence(name) or name in wide):
                    value = value[:, self.padding.place(length or 0)]
            cut[name] = value
        return ModelOutput(cut) if isinstance(outputs, ModelOutput) else cut


def _num_graphs() -> int:
    """Graphs that this process has compiled so far."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:400] or type(error).__name__


def _longer(name: str, value: Any, length: int, target: int, padding: Padding) -> Any:
    """A tensor with a token axis (axis 1) of `target` tokens; anything else as it is."""
    if target == length or not isinstance(value, torch.Tensor) or name not in padding.values:
        return value
    if value.ndim < 2 or value.shape[1] != length:
        return value
    longer = value.new_full((value.shape[0], target, *value.shape[2:]), padding.values[name])
    longer[:, padding.place(length)] = value
    return longer


def _more_rows(value: Any, size: int, num_rows: int) -> Any:
    if num_rows == size or not isinstance(value, torch.Tensor) or not value.ndim:
        return value
    return torch.cat([value, value[-1:].expand(num_rows - size, *value.shape[1:])])
