"""document-question-answering that shows the picture to LayoutLMv3, and whose chunks can share a forward."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import transformers

from ray_pipelines.errors import InvalidInput

__all__ = ["DocumentQuestionAnsweringPipeline"]

NO_OCR = (
    "word_boxes: are needed for this row, because OCR needs pytesseract and the tesseract program, which are not "
    "installed. Install them, or bring the words."
)


class DocumentQuestionAnsweringPipeline(transformers.DocumentQuestionAnsweringPipeline):  # type: ignore[misc]
    """Chunks of a page with its picture under the name that the model knows.

    Source: transformers 5.23, pipelines/document_question_answering.py, whose steps are called; OCR, the length of
    the question and the name of the picture are handled before and after, and logits of image patches are cut off.
    """

    image_processor: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ocr_language = getattr(self.image_processor, "ocr_lang", None)
        if getattr(self.image_processor, "apply_ocr", False):
            self.image_processor = copy.copy(self.image_processor)
            self.image_processor.apply_ocr = False
        self._is_generative = self.model.config.model_type == "vision-encoder-decoder"
        arguments = inspect.signature(self.model.forward).parameters
        self._picture = next((name for name in ("pixel_values", "image") if name in arguments), None)

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
            row["word_boxes"] = read_words(row["image"], lang or self._ocr_language, tesseract_config)
        for chunk in super().preprocess(row, **parameters):
            if self._is_generative:
                yield {name: chunk[name] for name in ("inputs", "decoder_input_ids")}
                continue
            picture = chunk.pop("image", None)
            if picture is not None and self._picture is not None:
                chunk[self._picture] = picture
            yield chunk

    def _forward(self, model_inputs: Mapping[str, Any], **generate_kwargs: Any) -> dict[str, Any]:
        if self._is_generative:
            arguments = self._prepare_generate_kwargs(generate_kwargs)
            sequences = self.model.generate(**model_inputs, **arguments)
            return {"sequences": sequences}
        outputs = super()._forward(dict(model_inputs), **generate_kwargs)
        # LayoutLMv3 puts the patches of the picture behind the tokens.
        num_tokens = model_inputs["input_ids"].shape[1]
        cut = {name: outputs[name][:, :num_tokens] for name in ("start_logits", "end_logits")}
        return {**outputs, **cut}

    def _cut_question(self, question: str, max_tokens: int) -> str:
        encoding = self.tokenizer.backend_tokenizer.encode(question, add_special_tokens=False)
        return question if len(encoding.ids) <= max_tokens else question[: encoding.offsets[max_tokens - 1][1]]


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
