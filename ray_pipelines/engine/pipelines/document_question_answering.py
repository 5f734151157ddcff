"""document-question-answering that shows the picture to LayoutLMv3, and whose chunks can share a forward."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import transformers
from transformers.pipelines.document_question_answering import decode_spans

from ray_pipelines.engine.pipelines._answer_spans import MASKED, NO_WORD, best_spans
from ray_pipelines.engine.pipelines._overlap import check_overlap
from ray_pipelines.errors import InvalidInput

__all__ = ["DocumentQuestionAnsweringPipeline"]

OWN_INPUTS = ("p_mask", "word_ids", "words", "is_last")
MANY_CHUNKS = 1_000
"""The tokenizer makes all chunks at once, of some 300 bytes a token: where they overlap by nearly all of it, a page of
30,000 words would take gigabytes."""
NO_OCR = (
    "word_boxes: are needed for this row, because OCR needs pytesseract and the tesseract program, which are not "
    "installed. Install them, or bring the words."
)


class DocumentQuestionAnsweringPipeline(transformers.DocumentQuestionAnsweringPipeline):  # type: ignore[misc]
    """Chunks of a page with its picture under the name that the model knows.

    Source: transformers 5.23, pipelines/document_question_answering.py, whose steps are called; OCR, the length of
    the question and the name of the picture are handled before and after, logits of image patches are cut off, and a
    chunk is reduced to its best spans where its model runs. The page's words go with its first chunk only.
    """

    image_processor: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ocr_language = getattr(self.image_processor, "ocr_lang", None)
        if getattr(self.image_processor, "apply_ocr", False):
            self.image_processor = copy.copy(self.image_processor)
            self.image_processor.apply_ocr = False
        arguments = inspect.signature(self.model.forward).parameters
        self._picture = next((name for name in ("pixel_values", "image") if name in arguments), None)

    @property
    def _is_generative(self) -> bool:
        return self.model.config.model_type == "vision-encoder-decoder"  # type: ignore[no-any-return]

    @property
    def reads_words(self) -> bool:
        """Whether the model reads words, which must be read off a picture that comes without them."""
        return not self._is_generative

    def words_of(
        self, image: Any, lang: str | None = None, tesseract_config: str = "", **_: Any
    ) -> list[tuple[str, list[int]]]:
        """The words of a picture as `read_words` gives them, in the language of the parameters or of the model."""
        return read_words(image, lang or self._ocr_language, tesseract_config)

    def _sanitize_parameters(self, **parameters: Any) -> Any:
        preprocess, forward, postprocess = super()._sanitize_parameters(**parameters)
        max_answer_len = postprocess.pop("max_answer_len", None)
        if not self._is_generative:
            forward |= {name: postprocess[name] for name in ("top_k",) if name in postprocess}
            forward |= {"max_answer_len": max_answer_len} if max_answer_len is not None else {}
        return preprocess, forward, postprocess

    def preprocess(
        self,
        input: Mapping[str, Any],
        max_question_len: int | None = None,
        lang: str | None = None,
        tesseract_config: str = "",
        **parameters: Any,
    ) -> Iterator[dict[str, Any]]:
        """The chunks of a page with its question.

        Raises:
            InvalidInput: The row lacks what the model needs: a picture, or words where there is no OCR.
        """
        row = dict(input)
        if max_question_len is not None:
            row["question"] = self._cut_question(row["question"], max_question_len)
        if self._is_generative and row.get("image") is None:
            raise InvalidInput("image: this model reads pictures; the row has none.")
        if not self._is_generative and "word_boxes" not in row:
            row["word_boxes"] = self.words_of(row["image"], lang, tesseract_config)
        if not self._is_generative:
            self._check_overlap(row, parameters.get("max_seq_len"), parameters.get("doc_stride"))
        for index, chunk in enumerate(super().preprocess(row, **parameters)):
            if self._is_generative:
                yield {name: chunk[name] for name in ("inputs", "decoder_input_ids")}
                continue
            picture = chunk.pop("image", None)
            if picture is not None and self._picture is not None:
                chunk[self._picture] = picture
            chunk["p_mask"] = torch.tensor([chunk["p_mask"]], dtype=torch.int64)
            chunk["word_ids"] = torch.tensor([[NO_WORD if word is None else word for word in chunk["word_ids"]]])
            yield {**chunk, "words": chunk["words"] if index == 0 else []}

    def _forward(
        self,
        model_inputs: Mapping[str, Any],
        top_k: int = 1,
        max_answer_len: int = 15,
        **generate_kwargs: Any,
    ) -> dict[str, Any]:
        """The best spans of each chunk; in a batch, lists of one value per chunk.

        `spans` is a list of `[score, first word, last word]`, `null_score` is `float32[batch]`, `confidence` is
        `float32[batch, 2]`: the highest logits, by which the executor checks that batches change nothing.
        """
        if self._is_generative:
            arguments = self._prepare_generate_kwargs(generate_kwargs)
            return {"sequences": self.model.generate(**model_inputs, **arguments)}
        inputs = {name: value for name, value in model_inputs.items() if name not in OWN_INPUTS}
        outputs = self.model(**inputs)
        # LayoutLMv3 puts the patches of the picture behind the tokens.
        num_tokens = inputs["input_ids"].shape[1]
        logits = [outputs[name][:, :num_tokens].float() for name in ("start_logits", "end_logits")]
        mask = inputs.get("attention_mask")
        is_own = torch.ones_like(inputs["input_ids"], dtype=torch.bool) if mask is None else mask == 1
        can_answer = is_own & (model_inputs["p_mask"] == 0)
        spans, null_scores = _best_spans(logits, can_answer, is_own, model_inputs["word_ids"], top_k, max_answer_len)
        is_batch = isinstance(model_inputs["is_last"], list)
        confidence = [values.masked_fill(~can_answer, MASKED).amax(dim=-1) for values in logits]
        return {
            "spans": spans if is_batch else spans[0],
            "null_score": null_scores,
            "confidence": torch.stack(confidence, dim=-1),
            "words": model_inputs["words"],
        }

    def postprocess(
        self, model_outputs: Sequence[Mapping[str, Any]], top_k: int = 1, handle_impossible_answer: bool = False
    ) -> Any:
        """The best answers of all chunks, best first.

        Args:
            model_outputs: Of each chunk, in order.
            top_k: How many answers to give at most.
            handle_impossible_answer: Let "no answer" compete, with the lowest null score of any chunk.
        """
        if self._is_generative:
            return super().postprocess(list(model_outputs), top_k=top_k)
        words = model_outputs[0]["words"]
        answers = [
            {"score": score, "answer": " ".join(words[first : last + 1]), "start": first, "end": last}
            for output in model_outputs
            for score, first, last in output["spans"]
        ]
        if handle_impossible_answer:
            null_score = min(float(output["null_score"]) for output in model_outputs)
            answers.append({"score": null_score, "answer": "", "start": 0, "end": 0})
        return sorted(answers, key=lambda answer: answer["score"], reverse=True)[:top_k]

    def _check_overlap(self, row: Mapping[str, Any], max_seq_len: int | None, doc_stride: int | None) -> None:
        """Refuses very many chunks with little that is new in each, as `question-answering` does.

        Raises:
            InvalidInput: There would be.
        """
        length = max_seq_len if max_seq_len is not None else self.tokenizer.model_max_length
        stride = doc_stride if doc_stride is not None else min(length // 2, 256)
        words = [word for word, _ in row["word_boxes"]]
        num_own = len(self._encode(row["question"])) + self.tokenizer.num_special_tokens_to_add(pair=True)
        check_overlap(
            length - num_own - stride,
            length,
            sum(map(len, words)),
            lambda: len(self._encode(words)),
            MANY_CHUNKS,
            reason="question, doc_stride: leave",
            text="page",
        )

    def _encode(self, text: str | list[str]) -> list[int]:
        """The tokens of a text, or of words, without special ones."""
        backend = self.tokenizer.backend_tokenizer
        backend.no_truncation()
        ids: list[int] = backend.encode(text, is_pretokenized=isinstance(text, list), add_special_tokens=False).ids
        return ids

    def _cut_question(self, question: str, max_tokens: int) -> str:
        encoding = self.tokenizer.backend_tokenizer.encode(question, add_special_tokens=False)
        return question if len(encoding.ids) <= max_tokens else question[: encoding.offsets[max_tokens - 1][1]]


def _best_spans(
    logits: Sequence[torch.Tensor],
    can_answer: torch.Tensor,
    is_own: torch.Tensor,
    word_ids: torch.Tensor,
    top_k: int,
    max_length: int,
) -> tuple[list[list[list[Any]]], torch.Tensor]:
    """The best `[score, first word, last word]` of each chunk, and the score of there being no answer.

    The first token takes part in the softmax; its share stands for no answer. Where a chunk has fewer spans than are
    asked for, transformers' own list of its tokens without padding (`is_own`) is taken, which goes on with spans of no
    score.
    """
    start, end = (values.masked_fill(~can_answer, MASKED).softmax(dim=-1) for values in logits)
    null_scores = start[:, 0] * end[:, 0]
    start[:, 0] = end[:, 0] = 0.0
    first, last, scores = best_spans(start, end, can_answer, top_k, max_length)
    # float32[batch, spans]; spans of no score are no answers.
    is_enough = (scores.shape[1] == top_k) & (scores > 0).all(dim=-1)
    spans = []
    for index, enough in enumerate(is_enough.tolist()):
        found: Any = first[index].tolist(), last[index].tolist(), scores[index].tolist()
        if not enough:
            own = is_own[index].nonzero()[:, 0]
            found = _listed(own, start[index, own], end[index, own], can_answer[index, own], top_k, max_length)
        words = word_ids[index].tolist()
        named = ([score, words[begin], words[stop]] for begin, stop, score in zip(*found, strict=True))
        spans.append([span for span in named if NO_WORD not in span[1:]])
    return spans, null_scores


def _listed(
    tokens: torch.Tensor, start: torch.Tensor, end: torch.Tensor, can_answer: torch.Tensor, top_k: int, max_length: int
) -> Any:
    """First and last tokens and scores of the spans of these tokens of a chunk as transformers lists them."""
    places, *values = (values.cpu().numpy() for values in (tokens, start, end, can_answer))
    first, last, scores = decode_spans(*values[:2], top_k, max_length, values[2])
    return places[first].tolist(), places[last].tolist(), scores.tolist()


def read_words(image: Any, language: str | None, config: str) -> list[tuple[str, list[int]]]:
    """The words of a picture and their boxes in thousandths of width and height, by Tesseract.

    Raises:
        InvalidInput: Tesseract is not installed.
    """
    try:
        import pytesseract
    except ImportError:
        raise InvalidInput(NO_OCR) from None
    try:
        found = pytesseract.image_to_data(image, lang=language, output_type="dict", config=config)
    except pytesseract.TesseractNotFoundError:
        raise InvalidInput(NO_OCR) from None
    scale = (1000 / image.width, 1000 / image.height)
    words = []
    for word, left, top, width, height in zip(
        *(found[name] for name in ("text", "left", "top", "width", "height")), strict=True
    ):
        if word.strip():
            corners = (left * scale[0], top * scale[1], (left + width) * scale[0], (top + height) * scale[1])
            words.append((word, [int(value) for value in corners]))
    return words
