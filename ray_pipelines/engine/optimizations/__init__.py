"""What makes a model cheaper to run, each off unless asked (`optimize` in a job file):

    int8       linear layers in 8-bit integers on a CPU
    packed     encoders without padding
    compiled   the model as compiled graphs, with shapes rounded up so that few are needed

Each changes a loaded pipeline in place or refuses by name. None changes what the executor promises: order, errors by
row, seeds, and results that do not depend on a row's neighbours.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import Pipeline

from ray_pipelines.config import ModelConfig, OptimizeConfig
from ray_pipelines.engine.optimizations import compiled, int8, packed
from ray_pipelines.engine.steps import Steps
from ray_pipelines.errors import ModelLoadError

__all__ = ["check_machine", "optimize_model", "steps_of"]


def check_machine(optimize: OptimizeConfig, model: ModelConfig, device: str | int | None) -> None:
    """Refuses what this machine cannot do, before any weights are read.

    Args:
        optimize: What was asked for.
        model: The model, whose own device goes first.
        device: Where it is to run; None for a GPU if there is one.

    Raises:
        ModelLoadError: Something that was asked for cannot be had here; the message says what and why.
    """
    if not optimize.int8 and not optimize.compile:
        return
    asked = model.device if model.device is not None else device
    name = "cuda" if asked is None and torch.cuda.is_available() else str(asked if asked is not None else "cpu")
    on_cpu = name in ("cpu", "-1")
    if optimize.int8 and not on_cpu:
        raise ModelLoadError(f"optimize.int8: expected a CPU; got {name}. Drop it, or set model.dtype: bfloat16.")
    if optimize.int8:
        int8.check_machine()
    if optimize.compile and on_cpu:
        compiled.check_compiler()


def optimize_model(pipe: Pipeline, optimize: OptimizeConfig) -> None:
    """Changes the pipeline's model in place, as asked.

    Raises:
        ModelLoadError: The model does not support it.
    """
    if optimize.packed:
        packed.pack_encoder(pipe.model)
    if optimize.int8:
        int8.quantize_linears(pipe.model)
    if optimize.compile:
        compiled.compile_model(pipe)


def steps_of(pipe: Pipeline, optimize: OptimizeConfig, *arguments: Any) -> Steps:
    """The steps of an optimised pipeline.

    Args:
        pipe: The pipeline.
        optimize: What was asked for.
        *arguments: What `Steps` takes besides.
    """
    steps = (compiled.CompiledSteps if optimize.compile else Steps)(pipe, *arguments)
    # Rounding to 8 bits turns the last digits of float32, in which batches differ, into something larger now and then.
    steps.is_exact = steps.is_exact and not optimize.int8
    return steps
