"""Preprocess, forward and postprocess of a hosted pipeline, one at a time.

The seam between a `transformers.Pipeline`, which knows a task, and the executor, which knows about batches, errors and
devices. A regular pipeline makes one chunk of each row; a `ChunkPipeline` makes any number, and takes the list of their
outputs.

For a task without a file of its own, rows go through the pipeline's own `__call__` up to where it would start its
executor: many pipelines rewrite their inputs and parameters there (chats, question and table pairs, label lists). A
`__call__` of the user's own, which may do anything before and after, is called as a whole: that is the forward then.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from transformers import GenerationConfig, Pipeline
from transformers.pipelines.base import ChunkPipeline
from transformers.utils import ModelOutput

from ray_pipelines import media
from ray_pipelines.config import MediaLimits
from ray_pipelines.engine.batching import Opaque, padding_of
from ray_pipelines.engine.closeness import are_near
from ray_pipelines.engine.lengths import cut_at, max_tokens, new_tokens, num_embeddings
from ray_pipelines.engine.seeds import seeded
from ray_pipelines.errors import InvalidInput, RowError, RowTooLarge, attempt
from ray_pipelines.tasks import RowCall, Task

__all__ = ["Steps"]

logger = logging.getLogger(__name__)
KNOWN_MODULES = ("transformers.", "ray_pipelines.")


class Steps:
    """The three steps of one pipeline for one task.

    Args:
        pipe: The loaded pipeline.
        task: What the task says about inputs and results.
        parameters: The task's parameters.
        limits: What decoding a row's media may cost.
        seed: With the content of a row, the seed of that row, where the pipeline draws random numbers.

    Attributes:
        max_tokens: Tokens that the model has positions for; None where it has no such limit.
        cut_at: Tokens at which the tokenizer cuts texts; None where it does not.
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
        self.padding = padding_of(pipe.tokenizer, pipe.feature_extractor, joins=getattr(pipe, "joins_media", False))
        extractor = pipe.feature_extractor or getattr(pipe.processor, "feature_extractor", None)
        self.sampling_rate: int | None = getattr(extractor, "sampling_rate", None)
        self.max_tokens = max_tokens(pipe.model)
        self._num_embeddings = num_embeddings(pipe.model)
        self.seed = seed
        self.is_random = task.is_random(pipe, parameters)
        self.has_own_call = not type(pipe).__call__.__module__.startswith(KNOWN_MODULES)
        self.can_batch = self._can_batch()
        self.is_exact = getattr(pipe.model, "dtype", None) in (torch.float32, torch.float64)
        self.is_generic = task.result_type is None
        self.num_truncated = 0
        self.extra_cost = new_tokens(pipe)
        self._call_arguments = self._arguments_of_call(task.pipeline_parameters(parameters))
        self._step_parameters = _step_parameters(pipe)
        self.cut_at = cut_at(pipe)
        is_known = type(pipe).preprocess.__module__.startswith(KNOWN_MODULES)
        is_taken_apart = not self.is_generic and not self.has_own_call
        can_group = task.preprocess_many is not None and is_known and not self.is_random and is_taken_apart
        self.group_size = task.group_size if can_group else 1
        self._many_is_checked = False
        is_known = type(pipe).postprocess.__module__.startswith(KNOWN_MODULES)
        # A class of one's own may want any of the model's outputs, also one registered under a known name.
        self._keeps_all = task.kept_outputs is None or not is_known
        self.can_finish_many = task.postprocess_many is not None and is_known and is_taken_apart
        self._finishing_is_checked = False

    def with_parameters(self, parameters: Any, seed: int | None = None) -> Steps:
        """The same pipeline with other parameters of the task, as one would run that is made with them."""
        pipe = copy.copy(self.pipe)
        for name in [name for name in pipe.__dict__ if isinstance(getattr(type(pipe), name, None), cached_property)]:
            del pipe.__dict__[name]
        arguments = self.task.pipeline_parameters(parameters)
        call_arguments = self._arguments_of_call(arguments)
        if hasattr(pipe, "_generate_kwargs"):
            # As when a pipeline is made: in a call, some of them hand arguments of `generate` to their processor.
            names = vars(GenerationConfig()).keys() - {*pipe._non_generation_params} & arguments.keys()
            pipe._generate_kwargs = {**pipe._generate_kwargs, **{name: arguments.pop(name) for name in names}}
        own = pipe._sanitize_parameters(**arguments)
        merged = [{**of_pipeline, **of_call} for of_pipeline, of_call in zip(_step_parameters(pipe), own, strict=True)]
        pipe._preprocess_params, pipe._forward_params, pipe._postprocess_params = merged
        steps = copy.copy(self)
        steps.pipe, steps.parameters, steps.seed = pipe, parameters, self.seed if seed is None else seed
        steps._step_parameters, steps._call_arguments = _step_parameters(pipe), call_arguments
        steps.is_random = self.task.is_random(pipe, parameters)
        steps.can_batch = steps._can_batch()
        steps.extra_cost, steps.cut_at = new_tokens(pipe), cut_at(pipe)
        return steps

    def _can_batch(self) -> bool:
        if not self.task.batched or self.is_random or self.has_own_call:
            return False
        # Drafts can be checked for one sequence at a time only.
        return getattr(self.pipe, "assistant_model", None) is None and getattr(self.pipe, "can_batch", True)

    def _arguments_of_call(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return _call_arguments(self.pipe, arguments) if self.is_generic or self.has_own_call else {}

    def with_generation_arguments(self, **arguments: Any) -> Steps:
        """The same with further arguments of `generate`, such as a `streamer`."""
        steps = copy.copy(self)
        before, forward, after = self._step_parameters
        named = inspect.signature(self.pipe._forward).parameters.get("generate_kwargs")
        if named is not None and named.kind is not inspect.Parameter.VAR_KEYWORD:
            arguments = {"generate_kwargs": {**(forward.get("generate_kwargs") or {}), **arguments}}
        steps._step_parameters = (before, {**forward, **arguments}, after)
        steps.pipe = copy.copy(self.pipe)
        steps.pipe._forward_params = steps._step_parameters[1]
        return steps

    # --- rows to items

    def item_of_fields(self, fields: Mapping[str, Any], decode: Callable[..., Any] = media.decode) -> Any:
        """What `preprocess` takes, from the fields of a row; or the `RowError` of a field that cannot be decoded.

        Args:
            fields: Name: value.
            decode: Takes the place of `media.decode`.
        """
        return attempt("decode", lambda: self.task.to_item(self._decoded(fields, decode)))

    def item_of_input(self, item: Any) -> Any:
        """What `preprocess` takes, from an item such as `transformers` takes."""
        if self.is_generic or isinstance(item, RowError):
            return item
        fields, required = self.task.fields_of(item), self.task.required_inputs
        return self.item_of_fields(
            {name: value for name, value in fields.items() if value is not None or name in required}
        )

    def _decoded(self, fields: Mapping[str, Any], decode: Callable[..., Any]) -> dict[str, Any]:
        decoded: dict[str, Any] = {}
        for name, value in fields.items():
            known = self.task.field(name)
            if value is None and known.required:
                raise InvalidInput(f"{name}: expected a value; got null.")
            if value is None:
                continue
            if known.modality == "audio" and "sampling_rate" in fields and not isinstance(value, dict | bytes | str):
                value = {"array": value, "sampling_rate": fields["sampling_rate"]}
            decoded[name] = decode(value, known.modality, self.limits, self.sampling_rate)
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
        if self.has_own_call:
            yield Opaque(inputs=item)
            return
        if self.is_generic:
            item = self._normalise(item)
        parameters = self._step_parameters[0]
        if isinstance(item, RowCall):
            item, parameters = item.item, {**parameters, **item.parameters}
        with self._random(item):
            chunks = self.pipe.preprocess(item, **parameters)
            if self.is_random and isinstance(self.pipe, ChunkPipeline):
                chunks = iter(list(chunks))
        if not isinstance(self.pipe, ChunkPipeline):
            chunks = iter([chunks])
        for chunk in chunks:
            if not isinstance(chunk, Mapping):
                yield Opaque(inputs=chunk)
            else:
                yield chunk if self.is_generic else self._checked(chunk)

    def preprocess_many(self, items: Sequence[Any]) -> list[Any]:
        """For each of many items its chunks, or None where it must be preprocessed by itself to see what is wrong.

        Items with arguments of their own are grouped by these; a `RowError` among the items is passed over. The first
        group is compared with what the pipeline makes of its first item alone: a library that treats many items
        otherwise is not used for it again.
        """
        made: list[Any] = [None] * len(items)
        groups: dict[str, list[int]] = {}
        for index, item in enumerate(items):
            if not isinstance(item, RowError):
                groups.setdefault(repr(item.parameters) if isinstance(item, RowCall) else "", []).append(index)
        for indices in groups.values():
            chunks = attempt("preprocess", partial(self._grouped, [items[index] for index in indices]))
            if not isinstance(chunks, RowError):
                for index, own in zip(indices, chunks, strict=True):
                    made[index] = own
        return made

    def _grouped(self, items: Sequence[Any]) -> list[Any]:
        """The chunks of each item, or None; all have the same arguments."""
        assert self.task.preprocess_many is not None
        parameters = dict(self._step_parameters[0])
        if isinstance(items[0], RowCall):
            parameters |= items[0].parameters
            items = [item.item for item in items]
        if self.group_size == 1:
            return [None] * len(items)
        found = self.task.preprocess_many(self.pipe, items, parameters)
        made = [None if own is None else attempt("preprocess", partial(self._all_checked, own)) for own in found]
        if not self._many_is_checked and isinstance(made[0], list):
            self._many_is_checked = True
            num_truncated = self.num_truncated
            alone = attempt("preprocess", lambda: list(self.preprocess(items[0])))
            self.num_truncated = num_truncated
            if isinstance(alone, RowError) or not _are_equal(alone, made[0]):
                self.group_size = 1
                logger.warning("Rows are preprocessed one by one: together they would not give the same.")
                return [None] * len(items)
        return [None if isinstance(own, RowError) else own for own in made]

    def _all_checked(self, chunks: Sequence[Any]) -> list[Any]:
        return [self._checked(chunk) for chunk in chunks]

    def by_transformers(self, item: Any) -> Any:
        """The result of one item as transformers' own executor computes it: alone, one forward per chunk.

        Raises:
            Exception: Whatever the pipeline raises.
        """
        if self.has_own_call:
            return self.task.to_result(self._called(item), self.parameters)
        if self.is_generic:
            item = self._normalise(item)
        preprocess, forward, postprocess = self._step_parameters
        if isinstance(item, RowCall):
            item, preprocess = item.item, {**preprocess, **item.parameters}
        return self.task.to_result(self.pipe.run_single(item, preprocess, forward, postprocess), self.parameters)

    def forward(self, inputs: Any) -> Any:
        """Model outputs on the CPU, only those that the task needs."""
        with self._random(inputs):
            if isinstance(inputs, Opaque):
                inputs = inputs["inputs"]
            return self._called(inputs) if self.has_own_call else self._forward(inputs)

    def _called(self, item: Any) -> Any:
        """What the pipeline's own `__call__` gives of one item."""
        arguments = self._call_arguments
        if isinstance(item, RowCall):
            item, arguments = item.item, {**arguments, **item.parameters}
        return self.pipe(item, **arguments)

    def _forward(self, inputs: Any) -> Any:
        if type(self.pipe).forward is not Pipeline.forward or self._keeps_all:
            return self.pipe.forward(inputs, **self._step_parameters[1])
        with self.pipe.device_placement(), self.pipe.get_inference_context()():
            on_device = self.pipe._ensure_tensor_on_device(_pinned(inputs, self.pipe.device), device=self.pipe.device)
            outputs = self.pipe._forward(on_device, **self._step_parameters[1])
            return self.pipe._ensure_tensor_on_device(self._kept(outputs), device=torch.device("cpu"))

    def postprocess(self, outputs: Sequence[Any]) -> Any:
        """The result of one item, from the outputs of its chunks in order."""
        if self.has_own_call:
            (result,) = outputs
        elif isinstance(self.pipe, ChunkPipeline):
            result = self.pipe.postprocess(list(outputs), **self._step_parameters[2])
        else:
            (only,) = outputs
            result = self.pipe.postprocess(only, **self._step_parameters[2])
        return self.task.to_result(result, self.parameters)

    def postprocess_many(self, outputs: Sequence[Sequence[Any]]) -> list[Any]:
        """The result of each of many rows, or None where it must be postprocessed by itself.

        The first call is compared with what the pipeline makes of its first row alone, as in `preprocess_many`.
        """
        assert self.task.postprocess_many is not None
        if not outputs or any(len(own) != 1 for own in outputs):
            return [None] * len(outputs)
        made = self.task.postprocess_many(self.pipe, [own[0] for own in outputs], self._step_parameters[2])
        results = [None if own is None else self.task.to_result(own, self.parameters) for own in made]
        if not self._finishing_is_checked and results[0] is not None:
            self._finishing_is_checked = True
            if not are_near(results[0], self.postprocess(outputs[0])):
                self.can_finish_many = False
                logger.warning("Rows are postprocessed one by one: together they would not give the same.")
                return [None] * len(outputs)
        return results

    @property
    def problem_with_stages(self) -> str | None:
        """Why another process could not go on from this one's chunks, or None: known once a row was preprocessed."""
        if self.has_own_call:
            return f"{type(self.pipe).__name__}.__call__ is called as a whole"
        own = (self.pipe._forward_params, self.pipe._postprocess_params)
        if self._step_parameters[1:] == own:
            return None
        return f"{type(self.pipe).__name__}.__call__ sets arguments of _forward or postprocess for each row"

    def is_sequence(self, output: str) -> bool:
        """Whether a model output has a token axis."""
        return self.task.sequence_outputs == "all" or output in self.task.sequence_outputs

    # --- details

    def _random(self, content: Any) -> contextlib.AbstractContextManager[None]:
        """Seeds what draws random numbers in the block, where anything does."""
        return seeded(content, self.seed, self.pipe.device) if self.is_random else contextlib.nullcontext()

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
        if not any(isinstance(value, torch.Tensor) for name, value in kept.items() if name != "target_size"):
            # Outputs with names of their own, for the postprocessing of this model.
            return outputs
        return ModelOutput(kept) if isinstance(outputs, ModelOutput) else kept

    def _checked(self, chunk: Mapping[str, Any]) -> dict[str, Any]:
        """The chunk as a dictionary, after checks whose failure on a GPU would cost the whole process."""
        inputs = dict(chunk)
        length = _label_length(inputs)
        if self.max_tokens is not None and length > self.max_tokens:
            raise RowTooLarge(
                f"candidate_labels: the longest has {length:,} tokens; the model takes {self.max_tokens:,}."
            )
        ids = inputs.get("input_ids")
        if isinstance(ids, torch.Tensor) and ids.ndim == 2:
            num_tokens = ids.shape[1]
            if num_tokens == 0:
                raise InvalidInput("text: has no tokens.")
            if self.max_tokens is not None and num_tokens > self.max_tokens:
                raise RowTooLarge(
                    f"text: has {num_tokens:,} tokens; the model takes {self.max_tokens:,}. Set truncation: true, or "
                    "use a task that splits long texts."
                )
            self.num_truncated += num_tokens == self.cut_at
            if self._num_embeddings is not None and int(ids.max()) >= self._num_embeddings:
                raise InvalidInput(
                    f"text: token {int(ids.max())} is outside of the model's {self._num_embeddings:,} embeddings; the "
                    "tokenizer does not belong to the model."
                )
        return inputs


def _label_length(inputs: Mapping[str, Any]) -> int:
    """Tokens of each candidate label, as pipelines hand on what they have made of a row's own labels; 0 without."""
    if isinstance(ids := inputs.get("text_input_ids"), torch.Tensor):
        return int(ids.shape[-1])
    return len(inputs["texts"][0][0]) if "texts" in inputs else 0


def _step_parameters(pipe: Pipeline) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The keyword arguments of the pipeline's three steps."""
    return pipe._preprocess_params, pipe._forward_params, pipe._postprocess_params


class _Reached(Exception):
    """A pipeline's `__call__` has come to where it would start its executor."""

    def __init__(self, inputs: Any, step_parameters: Sequence[dict[str, Any]]) -> None:
        super().__init__()
        self.inputs = inputs
        preprocess, forward, postprocess = step_parameters
        self.step_parameters = (preprocess, forward, postprocess)


def _call_arguments(pipe: Pipeline, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that are part of a call beside the item.

    `candidate_labels` and its like are demanded there. What a class of the user's takes in `_sanitize_parameters` is
    said again, as a default there would stand in place of what the pipeline was made with.
    """
    _, *others = inspect.signature(pipe.__call__).parameters.values()
    named = {p.name for p in others if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty}
    takes_more = any(p.kind is p.VAR_KEYWORD for p in others)
    if takes_more and not type(pipe)._sanitize_parameters.__module__.startswith(KNOWN_MODULES):
        named |= parameters.keys() - inspect.signature(type(pipe).__init__).parameters.keys()
    return {name: value for name, value in parameters.items() if name in named}


def _pinned(inputs: Any, device: torch.device) -> Any:
    """Inputs whose copies to a GPU do not wait for one another; as they are for any other device."""
    if device.type != "cuda" or not isinstance(inputs, dict):
        return inputs
    return {
        name: value.pin_memory().to(device, non_blocking=True)
        if isinstance(value, torch.Tensor) and value.device.type == "cpu"
        else value
        for name, value in inputs.items()
    }


def _are_equal(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two lists of chunks hold the same."""
    if len(one) != len(other):
        return False
    for first, second in zip(one, other, strict=True):
        if first.keys() != second.keys():
            return False
        for name, value in first.items():
            is_tensor = isinstance(value, torch.Tensor)
            same = torch.equal(value, second[name]) if is_tensor else value == second[name]
            if not same:
                return False
    return True
