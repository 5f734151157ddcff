"""question-answering, which transformers 5 dropped: the span of a context that answers a question.

A context longer than the model is split into chunks that overlap. Each chunk has probabilities of its own for where an
answer starts and ends; spans with the same text, whatever its case, add up over all chunks and stay where they were
first found.

Source: the behaviour of transformers 4.57.6, pipelines/question_answering.py. What differs:

- spans that cannot be answers (backwards, too long, or the [CLS] token) never fill up the list; there they did, with a
  score of 0, where a context has fewer spans than candidates are asked for, and other ones for each batch size;
- where the tokenizer pads at the left (XLNet), the question's tokens cannot be answers, and the null answer is read at
  the model's own [CLS] token rather than at the first token;
- a `max_question_len` that is set cuts the question; there it did nothing;
- a chunk carries the characters of its tokens rather than the tokenizer's encoding, and is reduced to its best spans
  where its model runs, so that neither logits nor offsets go any further.

Only fast tokenizers, which are all that transformers 5 has for these models.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForQuestionAnswering
from transformers.models.auto.modeling_auto import MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES
from transformers.pipelines.base import ChunkPipeline

from ray_pipelines.engine.pipelines import register_task
from ray_pipelines.engine.pipelines._answer_spans import (
    CLS,
    CONTEXT,
    MASKED,
    NO_ANSWER,
    best_spans,
    characters,
    probabilities,
    token_characters,
)
from ray_pipelines.engine.pipelines._overlap import check_overlap
from ray_pipelines.errors import InvalidInput

__all__ = ["QuestionAnsweringPipeline", "register"]

PREPROCESS = ("padding", "doc_stride", "max_question_len", "max_seq_len")
FORWARD = ("top_k", "max_answer_len", "align_to_words")
POSTPROCESS = ("top_k", "handle_impossible_answer")
MANY_CHUNKS = 5_000
"""The tokenizer makes all chunks at once, of some 100 bytes a token: where they overlap by nearly all of it, a context
of a megabyte would take ten gigabytes."""


class QuestionAnsweringPipeline(ChunkPipeline):  # type: ignore[misc]  # transformers is untyped here
    """Finds the answer to a question in a context: `{score, start, end, answer}`, or a list of them."""

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True

    default_input_names = "question,context"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.check_model_type(MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES)
        if not self.tokenizer.is_fast:
            raise ValueError(f"tokenizer: expected a fast one; got {type(self.tokenizer).__name__}.")
        takes_cache = "use_cache" in inspect.signature(self.model.forward).parameters
        self._model_arguments = {"use_cache": False} if takes_cache else {}

    def _sanitize_parameters(self, **parameters: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        for name in ("top_k", "max_answer_len"):
            if parameters.get(name) is not None and parameters[name] < 1:
                raise ValueError(f"{name}: expected 1 or more; got {parameters[name]}.")
        preprocess = {name: parameters.pop(name) for name in PREPROCESS if name in parameters}
        given = {name: value for name, value in parameters.items() if value is not None}
        forward, postprocess = (
            {name: given[name] for name in names if name in given} for names in (FORWARD, POSTPROCESS)
        )
        unknown = parameters.keys() - {*FORWARD, *POSTPROCESS}
        if unknown:
            raise TypeError(f"question-answering has no parameter {', '.join(sorted(unknown))}.")
        return preprocess, forward, postprocess

    def __call__(self, *args: Any, question: Any = None, context: Any = None, **kwargs: Any) -> Any:
        """The answers to one or several questions.

        Args:
            args: A `{question, context}` dictionary, a list of them, an iterator of them, or a question and a context.
            question: A question or a list of them, in place of `args`.
            context: Its context, one context for all questions, or a list of them.
            kwargs: Parameters of the task.

        Returns:
            A dictionary `{score, start, end, answer}` for each question, or a list of them if it has several answers.
        """
        if not args:
            args = (question, context)
        inputs = args[0] if len(args) == 1 else _pairs(*args)
        if isinstance(inputs, list) and len(inputs) == 1:
            inputs = inputs[0]
        return super().__call__(inputs, **kwargs)

    def preprocess(
        self,
        example: Mapping[str, str],
        padding: bool | str = "do_not_pad",
        doc_stride: int | None = None,
        max_question_len: int | None = None,
        max_seq_len: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """The chunks of a question and its context.

        Args:
            example: `question` and `context`.
            padding: As for the tokenizer.
            doc_stride: Tokens that two chunks share; half a chunk, 128 at most, if None.
            max_question_len: Tokens at which the question is cut; never if None.
            max_seq_len: Tokens of a chunk; as many as the model takes, 384 at most, if None.

        Yields:
            The model's inputs, and beside them `p_mask` (`int64[1, tokens]`, 1 where no answer can be; the [CLS] token
            has 2), `offset_mapping` (`int32[1, tokens, 4]`: where each token and its word start and end in the context)
            and `sentence` (the context, in the first chunk).

        Raises:
            InvalidInput: The question or the context is empty, or the question leaves no room for the context.
        """
        question, context = _question_and_context(example)
        length = max_seq_len if max_seq_len is not None else min(self.tokenizer.model_max_length, 384)
        stride = doc_stride if doc_stride is not None else min(length // 2, 128)
        if stride > length:
            raise ValueError(f"doc_stride: expected at most max_seq_len ({length}); got {stride}.")
        question = self._fitting_question(question, context, max_question_len, length, stride)
        is_first = self.tokenizer.padding_side == "right"
        encoded = self.tokenizer(
            question if is_first else context,
            context if is_first else question,
            padding=padding,
            truncation="only_second" if is_first else "only_first",
            max_length=length,
            stride=stride,
            return_token_type_ids=True,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        num_chunks = len(encoded["input_ids"])
        for index in range(num_chunks):
            names = [name for name in self.tokenizer.model_input_names if name in encoded]
            inputs = {name: torch.from_numpy(np.array(encoded[name][index], dtype=np.int64))[None] for name in names}
            sequences = np.array(encoded.sequence_ids(index), dtype=np.float32)
            is_context, is_special = sequences == int(is_first), np.isnan(sequences)
            p_mask = np.where(is_context, CONTEXT, NO_ANSWER)
            is_cls = is_special & (inputs["input_ids"][0].numpy() == self.tokenizer.cls_token_id)
            p_mask[np.flatnonzero(is_cls)[:1]] = CLS
            spans = token_characters(encoded["offset_mapping"][index], encoded.word_ids(index), is_context)
            yield {
                "is_last": index == num_chunks - 1,
                **inputs,
                "p_mask": torch.from_numpy(p_mask)[None],
                "offset_mapping": torch.from_numpy(spans)[None],
                "sentence": context if index == 0 else "",
            }

    def _fitting_question(self, question: str, context: str, max_len: int | None, length: int, stride: int) -> str:
        """The question, cut to `max_len` tokens if given.

        Raises:
            InvalidInput: A context that has to be split has no room beside it.
        """
        offsets = self.tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        if max_len is not None and len(offsets) > max_len:
            question, offsets = question[: offsets[max_len - 1][1]], offsets[:max_len]
        room = length - len(offsets) - self.tokenizer.num_special_tokens_to_add(pair=True)

        def num_tokens() -> int:
            return len(self.tokenizer(context, add_special_tokens=False)["input_ids"])

        if room <= stride and num_tokens() > room:
            raise InvalidInput(
                f"question: has {len(offsets):,} tokens, which leave {max(room, 0):,} of a chunk's {length:,} for the "
                f"context; expected more than doc_stride ({stride:,}). Shorten it, or set max_question_len."
            )
        check_overlap(
            room - stride, length, len(context), num_tokens, MANY_CHUNKS, reason="question: leaves", text="context"
        )
        return question

    def _forward(
        self, inputs: Mapping[str, Any], top_k: int = 1, max_answer_len: int = 15, align_to_words: bool = True
    ) -> dict[str, Any]:
        """The best spans of each chunk; in a batch, lists of one value per chunk.

        Args:
            inputs: What `preprocess` yields, or a batch of it.
            top_k: How many answers are asked for.
            max_answer_len: Tokens of an answer at most.
            align_to_words: Widen answers to whole words.

        Returns:
            `spans` (`int32[batch, spans, 2]`: start and end in characters, best first) and `scores` (`float32[batch,
            spans]`: -1 where there are no more), `null_score` (`float32[batch]`),
            `confidence` (`float32[batch, 2]`: the highest logits, by which the executor checks that batches change
            nothing), `sentence` and `is_last`.
        """
        names = [name for name in self.tokenizer.model_input_names if name in inputs]
        outputs = self.model(**{name: inputs[name] for name in names}, **self._model_arguments)
        start, end = (outputs["start_logits"], outputs["end_logits"]) if isinstance(outputs, dict) else outputs[:2]
        kinds = inputs["p_mask"]
        starts, ends, null_scores = probabilities(start, end, kinds)
        # Several spans may become one answer, so that more are looked at than are asked for.
        num_spans = top_k * 2 + 10 if align_to_words else top_k
        first, last, scores = best_spans(starts, ends, kinds == CONTEXT, num_spans, max_answer_len)
        begin, stop = characters(inputs["offset_mapping"], first, last, align_to_words)
        can_be = kinds != NO_ANSWER
        confidence = [logits.float().masked_fill(~can_be, MASKED).amax(dim=-1) for logits in (start, end)]
        return {
            "spans": torch.stack([begin, stop], dim=-1),
            "scores": scores,
            "null_score": null_scores,
            "confidence": torch.stack(confidence, dim=-1),
            "sentence": inputs["sentence"],
            "is_last": inputs.get("is_last", True),
        }

    def postprocess(
        self, model_outputs: Sequence[Mapping[str, Any]], top_k: int = 1, handle_impossible_answer: bool = False
    ) -> Any:
        """The best answers of all chunks, best first; without its list if there is one.

        Args:
            model_outputs: Of each chunk, in order.
            top_k: How many answers to give at most.
            handle_impossible_answer: Let "no answer" compete, with the lowest null score of any chunk.
        """
        context = model_outputs[0]["sentence"]
        answers: dict[str, dict[str, Any]] = {}
        for output in model_outputs:
            for (begin, stop), score in zip(output["spans"][0].tolist(), output["scores"][0].tolist(), strict=True):
                if score < 0:
                    break
                answer = context[begin:stop]
                known = answers.setdefault(
                    answer.lower(), {"score": 0.0, "start": begin, "end": stop, "answer": answer}
                )
                known["score"] += score
        found = list(answers.values())
        if handle_impossible_answer:
            null_score = min(float(output["null_score"]) for output in model_outputs)
            found.append({"score": null_score, "start": 0, "end": 0, "answer": ""})
        found = sorted(found, key=lambda answer: answer["score"], reverse=True)[:top_k]
        return found[0] if len(found) == 1 else found


def _pairs(question: Any, context: Any) -> list[dict[str, Any]]:
    """Questions with their contexts, from lists or a single one of either."""
    if question is None or context is None:
        raise ValueError("question, context: expected both; got one of them or none.")
    questions = question if isinstance(question, list) else [question]
    contexts = context if isinstance(context, list) else [context] * len(questions)
    if len(questions) != len(contexts):
        raise ValueError(f"context: expected one, or one per question ({len(questions)}); got {len(contexts)}.")
    return [{"question": q, "context": c} for q, c in zip(questions, contexts, strict=True)]


def _question_and_context(example: Mapping[str, str]) -> tuple[str, str]:
    for name in ("question", "context"):
        value = example.get(name)
        if not isinstance(value, str) or not value:
            raise InvalidInput(
                f"{name}: expected a text; got {'an empty one' if value == '' else type(value).__name__}."
            )
    return example["question"], example["context"]


def register() -> None:
    """Makes the task known to transformers."""
    default = ("distilbert/distilbert-base-cased-distilled-squad", "564e9b5")
    register_task("question-answering", QuestionAnsweringPipeline, (AutoModelForQuestionAnswering,), default=default)
