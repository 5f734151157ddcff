"""Preprocess, forward and postprocess of a hosted pipeline, one at a time.

The seam between a `transformers.Pipeline`, which knows a task, and the executor, which knows about batches, errors and
devices. A regular pipeline makes one chunk of each row; a `ChunkPipeline` makes any number, and takes the list of their
outputs.

For a task without a file of its own, rows go through the pipeline's own `__call__` up to where it would start its
executor: many pipelines rewrite their inputs and parameters there (chats, question and table pairs, label lists).
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import pickle
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import Pipeline
from transformers.pipelines.base import ChunkPipeline
from transformers.utils import ModelOutput

from ray_pipelines import media
from ray_pipelines.config import MediaLimits
from ray_pipelines.engine.batching import padding_of
from ray_pipelines.errors import InvalidInput, RowError, RowTooLarge, attempt
from ray_pipelines.tasks import RowCall, Task

__all__ = ["Steps", "max_tokens"]

OTHER_TOWERS = ("vision", "visual", "image", "audio", "speech")
POSITION_EMBEDDINGS = ("position_embeddings", "position_embedding", "embed_positions", "wpe")


class Steps:
    """The three steps of one pipeline for one task.

    Args:
        pipe: The loaded pipeline.
        task: What the task says about inputs and results.
        parameters: The task's parameters.
        limits: What decoding a row's media may cost.
        seed: With the content of a row, the seed of that row, where the pipeline draws random numbers.

    Attributes:
        num_graphs: Graphs that were compiled.
        warmup_s: Seconds that forwards took which compiled one.
    """

    num_graphs = 0
    warmup_s = 0.0

    def __init__(self, pipe: Pipeline, task: Task, parameters: Any, limits: MediaLimits, seed: int = 0) -> None:
        self.pipe = pipe
        self.task = task
        self.parameters = parameters
        self.limits = limits
        self.padding = padding_of(pipe.tokenizer, pipe.feature_extractor)
        extractor = pipe.feature_extractor or getattr(pipe.processor, "feature_extractor", None)
        self.sampling_rate: int | None = getattr(extractor, "sampling_rate", None)
        self._max_tokens = max_tokens(pipe.model)
        self._num_embeddings = _num_embeddings(pipe.model)
        self.seed = seed
        self.is_random = task.is_random(pipe, parameters)
        self.is_exact = getattr(pipe.model, "dtype", None) in (torch.float32, torch.float64)
        self._is_generic = task.result_type is None
        self._call_arguments = _required_arguments(pipe, parameters.model_dump()) if self._is_generic else {}
        self._step_parameters = (pipe._preprocess_params, pipe._forward_params, pipe._postprocess_params)

    # --- rows to items

    def item_of_fields(self, fields: Mapping[str, Any]) -> Any:
        """What `preprocess` takes, from the fields of a row; or the `RowError` of a field that cannot be decoded."""
        return attempt("decode", lambda: self.task.to_item(self._decoded(fields)))

    def item_of_input(self, item: Any) -> Any:
        """What `preprocess` takes, from an item such as `transformers` takes."""
        if self._is_generic or isinstance(item, RowError):
            return item
        first = self.task.inputs[0]
        if isinstance(item, dict) and first.name in item:
            return self.item_of_fields({name: value for name, value in item.items() if value is not None})
        return self.item_of_fields({first.name: item})

    def _decoded(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        decoded: dict[str, Any] = {}
        for name, value in fields.items():
            known = self.task.field(name)
            if value is None and known.required:
                raise InvalidInput(f"{name}: expected a value; got null.")
            if value is None:
                continue
            if known.modality == "audio" and "sampling_rate" in fields and not isinstance(value, dict | bytes | str):
                value = {"array": value, "sampling_rate": fields["sampling_rate"]}
            decoded[name] = media.decode(value, known.modality, self.limits, self.sampling_rate)
        for name in self.task.required_inputs:
            if name not in decoded:
                raise InvalidInput(f"{name}: is required by {self.task.name}; the row does not have it.")
        return decoded

    # --- the three steps

    def preprocess(self, item: Any) -> Iterator[Any]:
        """The chunks of one item: model inputs on the CPU, tensors with a leading axis of 1.

        Raises:
            RowTooLarge: A chunk has more tokens than the model has positions.
            Exception: Whatever the pipeline raises.
        """
        if self._is_generic:
            item = self._normalise(item)
        parameters = self._step_parameters[0]
        if isinstance(item, RowCall):
            item, parameters = item.item, {**parameters, **item.parameters}
        with self._seeded(item):
            chunks = self.pipe.preprocess(item, **parameters)
            if self.is_random and isinstance(self.pipe, ChunkPipeline):
                chunks = iter(list(chunks))
        if not isinstance(self.pipe, ChunkPipeline):
            chunks = iter([chunks])
        for chunk in chunks:
            yield chunk if self._is_generic else self._checked(chunk)

    def forward(self, inputs: Any) -> Any:
        """Model outputs on the CPU, only those that the task needs."""
        with self._seeded(inputs):
            return self._forward(inputs)

    def _forward(self, inputs: Any) -> Any:
        if type(self.pipe).forward is not Pipeline.forward or self.task.kept_outputs is None:
            return self.pipe.forward(inputs, **self._step_parameters[1])
        with self.pipe.device_placement(), self.pipe.get_inference_context()():
            on_device = self.pipe._ensure_tensor_on_device(inputs, device=self.pipe.device)
            outputs = self.pipe._forward(on_device, **self._step_parameters[1])
            return self.pipe._ensure_tensor_on_device(self._kept(outputs), device=torch.device("cpu"))

    def postprocess(self, outputs: Sequence[Any]) -> Any:
        """The result of one item, from the outputs of its chunks in order."""
        if isinstance(self.pipe, ChunkPipeline):
            result = self.pipe.postprocess(list(outputs), **self._step_parameters[2])
        else:
            (only,) = outputs
            result = self.pipe.postprocess(only, **self._step_parameters[2])
        return self.task.to_result(result, self.parameters)

    @property
    def problem_with_stages(self) -> str | None:
        """Why another process could not go on from this one's chunks, or None: known once a row was preprocessed."""
        own = (self.pipe._forward_params, self.pipe._postprocess_params)
        if self._step_parameters[1:] == own:
            return None
        return f"{type(self.pipe).__name__}.__call__ sets arguments of _forward or postprocess for each row"

    def is_sequence(self, output: str) -> bool:
        """Whether a model output has a token axis."""
        return self.task.sequence_outputs == "all" or output in self.task.sequence_outputs

    # --- details

    @contextlib.contextmanager
    def _seeded(self, content: Any) -> Iterator[None]:
        """Random numbers that depend on the seed and on `content` alone: not on the batch, the order or the worker."""
        if not self.is_random:
            yield
            return
        seed = _digest(content) ^ self.seed
        states = random.getstate(), np.random.get_state()
        devices = [self.pipe.device] if self.pipe.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            try:
                yield
            finally:
                random.setstate(states[0])
                np.random.set_state(states[1])

    def _normalise(self, item: Any) -> Any:
        """The item as the pipeline's own `__call__` would pass it to its executor, whose parameters are noted.

        Raises:
            InvalidInput: The pipeline makes anything but one input of the item.
            Exception: Whatever the pipeline raises.
        """

        def run_single(inputs: Any, *step_parameters: dict[str, Any]) -> None:
            raise _Reached(inputs, step_parameters)

        def get_iterator(inputs: Any, num_workers: int, batch_size: int, *step_parameters: dict[str, Any]) -> None:
            inputs = list(inputs)
            if len(inputs) != 1:
                raise InvalidInput(f"expected one input per row; the pipeline made {len(inputs)} of it.")
            raise _Reached(inputs[0], step_parameters)

        self.pipe.run_single, self.pipe.get_iterator = run_single, get_iterator
        try:
            self.pipe(item, **self._call_arguments)
        except _Reached as reached:
            self._step_parameters = reached.step_parameters
            return reached.inputs
        finally:
            del self.pipe.run_single, self.pipe.get_iterator
        raise InvalidInput("the pipeline never came to its model.")

    def _kept(self, outputs: Any) -> Any:
        if self.task.kept_outputs == "first":
            name = next(iter(outputs))
            return ModelOutput({name: outputs[name]})
        names = self.task.kept_outputs or tuple(outputs)
        kept = {name: outputs[name] for name in names if name in outputs}
        return ModelOutput(kept) if isinstance(outputs, ModelOutput) else kept

    def _checked(self, chunk: Mapping[str, Any]) -> dict[str, Any]:
        """The chunk as a dictionary, after checks whose failure on a GPU would cost the whole process."""
        inputs = dict(chunk)
        ids = inputs.get("input_ids")
        if isinstance(ids, torch.Tensor) and ids.ndim == 2:
            num_tokens = ids.shape[1]
            if num_tokens == 0:
                raise InvalidInput("text: has no tokens.")
            if self._max_tokens is not None and num_tokens > self._max_tokens:
                raise RowTooLarge(
                    f"text: has {num_tokens:,} tokens; the model takes {self._max_tokens:,}. Set truncation: true, or "
                    "use a task that splits long texts."
                )
            if self._num_embeddings is not None and int(ids.max()) >= self._num_embeddings:
                raise InvalidInput(
                    f"text: token {int(ids.max())} is outside of the model's {self._num_embeddings:,} embeddings; the "
                    "tokenizer does not belong to the model."
                )
        return inputs


class _Reached(Exception):
    """A pipeline's `__call__` has come to where it would start its executor."""

    def __init__(self, inputs: Any, step_parameters: Sequence[dict[str, Any]]) -> None:
        super().__init__()
        self.inputs = inputs
        preprocess, forward, postprocess = step_parameters
        self.step_parameters = (preprocess, forward, postprocess)


def _digest(content: Any) -> int:
    """63 bits of a hash of an item or of a chunk's model inputs."""
    digest = hashlib.blake2b(digest_size=8)

    def add(value: Any) -> None:
        if isinstance(value, Mapping):
            for name in sorted(value):
                digest.update(str(name).encode())
                add(value[name])
        elif isinstance(value, torch.Tensor):
            digest.update(value.detach().cpu().float().numpy().tobytes())
        elif isinstance(value, str):
            digest.update(value.encode(errors="surrogatepass"))
        elif isinstance(value, list | tuple):
            # Where a chunk has crossed a stage boundary, its tuples have become lists.
            digest.update(b"[")
            for part in value:
                add(part)
        else:
            digest.update(pickle.dumps(value))

    add(content)
    return int.from_bytes(digest.digest(), "little") >> 1


def _required_arguments(pipe: Pipeline, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that the pipeline's `__call__` demands beside the item, such as `candidate_labels`."""
    _, *others = inspect.signature(pipe.__call__).parameters.values()
    required = [p.name for p in others if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty]
    return {name: parameters[name] for name in required if name in parameters}


def max_tokens(model: Any) -> int | None:
    """The number of text tokens that the model has absolute positions for, or None where it has no such limit."""
    limits = []
    for name, module in model.named_modules():
        if any(tower in name for tower in OTHER_TOWERS):
            continue
        if name.rsplit(".", 1)[-1] in POSITION_EMBEDDINGS and isinstance(module, torch.nn.Embedding):
            offset = module.padding_idx + 1 if module.padding_idx is not None else getattr(module, "offset", 0)
            limits.append(module.num_embeddings - offset)
    return min(limits, default=None)


def _num_embeddings(model: Any) -> int | None:
    try:
        embeddings = model.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        return None
    return embeddings.num_embeddings if isinstance(embeddings, torch.nn.Embedding) else None
