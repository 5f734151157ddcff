"""What the pipelines of encoder-decoder text models share: text in, generated texts out.

Source: the behaviour of transformers 4.57.6, pipelines/text2text_generation.py and base.py (`task_specific_params`).
What differs:

- a `max_length` of the user, or of the model's `task_specific_params`, holds; there it lost to the pipeline's own
  `max_new_tokens` of 256, or to the model's;
- what the user sets when the pipeline is made wins over the model's `task_specific_params` too;
- `stop_sequence` stops at the whole string; there, at its first token, and no longer at the model's own end of text;
- rows of a batch may have different target languages, and penalties that read the input never see its padding;
- token ids end with the row's own text, not with that of the longest in its batch;
- the first padded batch is compared with one of its rows alone: where the first logits differ (positions that are
  counted from the left of padding, encoders that ignore the mask), only texts of equal length share a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, Pipeline
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

from ray_pipelines.engine.batching import hide_mask, restore_mask
from ray_pipelines.engine.pipelines._generated import KnowsPadding, have_same_logits
from ray_pipelines.errors import InvalidInput

__all__ = ["Seq2SeqPipeline"]

OVERRULES = {"max_length": "max_new_tokens", "min_length": "min_new_tokens"}
"""Lengths of a user, and the rivals of the model that would win over them in `generate`."""

READ_THE_INPUT = {"encoder_repetition_penalty": (None, 1.0), "encoder_no_repeat_ngram_size": (None, 0)}
"""Parameters of `generate` that look at the input's tokens without a mask, with the values that do nothing."""


class Seq2SeqPipeline(KnowsPadding, Pipeline):  # type: ignore[misc]  # transformers is untyped here
    """Generates texts from texts with an encoder-decoder model.

    Where neither the user nor the model says otherwise, by beam search with 4 beams, up to 256 tokens.
    """

    _pipeline_calls_generate = True
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True
    _default_generation_config = GenerationConfig(max_new_tokens=256, num_beams=4)

    return_name = "generated"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.check_model_type(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)
        of_task = dict(self._task_specific_params())
        self.prefix = of_task.pop("prefix", getattr(self.model.config, "prefix", None)) or ""
        known = vars(GenerationConfig())
        self._of_task = {name: value for name, value in of_task.items() if name in known}

    def _task_specific_params(self) -> Mapping[str, Any]:
        """What the model's configuration says about this task: a prefix, and parameters of `generate`."""
        of_tasks = getattr(self.model.config, "task_specific_params", None) or {}
        return of_tasks.get(self.task) or {}

    def _sanitize_parameters(self, **parameters: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        preprocess = {name: parameters.pop(name) for name in ("truncation",) if name in parameters}
        postprocess: dict[str, Any] = {}
        if "return_tensors" in parameters or "return_text" in parameters:
            wants_text = parameters.pop("return_text", None) is not False
            postprocess["return_tensors"] = bool(parameters.pop("return_tensors", None)) or not wants_text
        if "clean_up_tokenization_spaces" in parameters:
            postprocess["clean_up_tokenization_spaces"] = bool(parameters.pop("clean_up_tokenization_spaces"))
        if (stop_sequence := parameters.pop("stop_sequence", None)) is not None:
            parameters["stop_strings"] = stop_sequence
        if getattr(self, "assistant_model", None) is not None:
            parameters["assistant_model"] = self.assistant_model
        if getattr(self, "assistant_tokenizer", None) is not None:
            parameters["assistant_tokenizer"] = self.assistant_tokenizer
        return preprocess, parameters, postprocess

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Texts generated from one text or from a list of texts.

        Args:
            args: A text, or a list of them.
            kwargs: `truncation`, `return_tensors`, `clean_up_tokenization_spaces`, `stop_sequence`, and any argument of
                `generate`.

        Returns:
            A list of dictionaries, one per text; lists of them where several are generated from each text.
        """
        results = super().__call__(*args, **kwargs)
        of_texts = isinstance(args[0], list) and all(isinstance(text, str) for text in args[0])
        if of_texts and all(len(result) == 1 for result in results):
            return [result[0] for result in results]
        return results

    def preprocess(self, inputs: str | list[str], truncation: bool | str = False) -> Any:
        """The tokens of a text, after the model's prefix for this task."""
        if not isinstance(inputs, str | list):
            raise InvalidInput(f"text: expected a string; got {type(inputs).__name__}.")
        texts = self.prefix + inputs if isinstance(inputs, str) else [self.prefix + text for text in inputs]
        encoded = self.tokenizer(texts, padding=isinstance(inputs, list), truncation=truncation, return_tensors="pt")
        encoded.pop("token_type_ids", None)
        return hide_mask(encoded) if self._pads is False else encoded

    def _prepare_generate_kwargs(self, generate_kwargs: dict[str, Any], **overrides: Any) -> dict[str, Any]:
        if "generation_config" in generate_kwargs:
            return dict(super()._prepare_generate_kwargs(generate_kwargs, **overrides))
        asked = {**self._generate_kwargs, **generate_kwargs}
        of_task = dict(self._of_task)
        for length, rival in OVERRULES.items():
            if asked.get(rival) is not None:
                of_task.pop(length, None)
            elif asked.get(length) is not None or length in of_task:
                of_task[rival] = None
        return dict(super()._prepare_generate_kwargs({**of_task, **asked}, **overrides))

    def _forward(self, model_inputs: Mapping[str, Any], **generate_kwargs: Any) -> dict[str, torch.Tensor]:
        """Token ids of the outputs, `int64[batch, sequences, length]`, shorter ones padded."""
        arguments = self._prepare_generate_kwargs(generate_kwargs, return_dict_in_generate=False)
        arguments.setdefault("tokenizer", self.tokenizer)
        inputs = restore_mask(model_inputs)
        first_tokens = inputs.pop("forced_bos_token_id", None)
        size = len(inputs["input_ids"])
        outputs: list[Any] = [None] * size
        for rows, first_token in self._groups(inputs, first_tokens, arguments):
            part = _of_rows(inputs, rows)
            chosen = arguments if first_token is None else {**arguments, "forced_bos_token_id": first_token}
            made = self.model.generate(**part, **chosen)
            for row, ids in zip(rows, made.reshape(len(rows), -1, made.shape[-1]), strict=True):
                outputs[row] = ids
        return {"output_ids": _stacked(outputs, self._padding_id())}

    def _groups(
        self, inputs: Mapping[str, Any], first_tokens: torch.Tensor | None, arguments: Mapping[str, Any]
    ) -> list[tuple[list[int], int | None]]:
        """Rows that can be generated together, each group with its forced first token."""
        size = len(inputs["input_ids"])
        first = [None] * size if first_tokens is None else first_tokens[:, 0].tolist()
        of_model = self.model.generation_config
        alone = any(arguments.get(k, getattr(of_model, k, None)) not in idle for k, idle in READ_THE_INPUT.items())
        is_known = self._pads or "attention_mask" not in inputs
        lengths = [None] * size if is_known else inputs["attention_mask"].sum(1).tolist()
        if self._pads is None and len(set(lengths)) > 1:
            shortest = lengths.index(min(lengths))
            padded = {name: value[[shortest]] for name, value in inputs.items()}
            by_itself = _of_rows(inputs, [shortest])
            self._pads = have_same_logits(self.model, by_itself, padded, self._padding_id())
        groups: dict[Any, list[int]] = {}
        for row in range(size):
            length = lengths[row] if self._pads is False else None
            groups.setdefault((first[row], length, row if alone else None), []).append(row)
        return [(rows, first[rows[0]]) for rows in groups.values()]

    def _padding_id(self) -> int:
        of_tokenizer = self.tokenizer.pad_token_id
        of_model = self.model.generation_config.pad_token_id
        return int(of_model if of_model is not None else of_tokenizer if of_tokenizer is not None else 0)

    def postprocess(
        self,
        model_outputs: Mapping[str, Any],
        return_tensors: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> list[dict[str, Any]]:
        """The texts generated for one row, or their token ids."""
        sequences = model_outputs["output_ids"][0]
        if return_tensors:
            return [{f"{self.return_name}_token_ids": self._without_padding(ids)} for ids in sequences]
        return [
            {
                f"{self.return_name}_text": self.tokenizer.decode(
                    ids, skip_special_tokens=True, clean_up_tokenization_spaces=clean_up_tokenization_spaces
                )
            }
            for ids in sequences
        ]

    def _without_padding(self, ids: torch.Tensor) -> torch.Tensor:
        """The ids without trailing padding; the first, with which decoding started, stays."""
        own = (ids[1:] != self._padding_id()).nonzero()
        return ids[: int(own[-1]) + 2] if len(own) else ids[:1]


def _of_rows(inputs: Mapping[str, torch.Tensor], rows: Sequence[int]) -> dict[str, torch.Tensor]:
    """The model inputs of some rows of a batch, without the places where all of them are padded."""
    if len(rows) == len(inputs["input_ids"]) > 1:
        # One of them is as long as the batch.
        return dict(inputs)
    part = {name: value[rows] for name, value in inputs.items()}
    if "attention_mask" not in part:
        return part
    own = part["attention_mask"].any(0)
    return {name: value[:, own] if value.shape[1:] == own.shape else value for name, value in part.items()}


def _stacked(sequences: Sequence[torch.Tensor], padding_id: int) -> torch.Tensor:
    """Tensors `[sequences, length]` of several rows as one, shorter ones filled up at the right."""
    longest = max(ids.shape[-1] for ids in sequences)
    return torch.stack(
        [torch.nn.functional.pad(ids, (0, longest - ids.shape[-1]), value=padding_id) for ids in sequences]
    )
