"""document-question-answering: answers to a question about a page, from its words and their places.

A row has a question and a page: its words with their boxes, its picture, or both. Models of the LayoutLM family read
the words; where a row has none they come from its picture by OCR (Tesseract through `pytesseract`, an optional
dependency), over a dataset in a CPU stage before all others. LayoutLMv2, LayoutLMv3 and Donut also look at the picture.
`start` and `end` of an answer count words.

Bugs of transformers 5.23 that are put right in `engine/pipelines/document_question_answering.py`:

- LayoutLMv3 never sees the picture, which is passed under a name that the model ignores;
- `max_question_len` is accepted and then raises a `TypeError`; here it cuts the question;
- OCR runs (and must be installed) for LayoutLMv2 and v3 even if the row brings its words, and `lang` is ignored there;
- batches crash unless all chunks have one length.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import pydantic

from ray_pipelines.errors import InvalidInput
from ray_pipelines.tasks import Field, Parameters, Preparation, Task, require_text
from ray_pipelines.tasks._tokenizer import Padding

if TYPE_CHECKING:
    import pyarrow as pa

LARGEST_COORDINATE = 1000


class DocumentQuestionAnsweringParameters(Parameters):
    """Parameters of document-question-answering."""

    top_k: Annotated[int, pydantic.Field(gt=0, description="How many answers to return at most, best first.")] = 1
    max_answer_len: Annotated[int, pydantic.Field(gt=0, description="Longest answer in tokens.")] = 15
    handle_impossible_answer: Annotated[
        bool, pydantic.Field(description="Allow an empty answer, for questions that the page does not answer.")
    ] = False
    max_seq_len: Annotated[
        int | None,
        pydantic.Field(
            gt=0,
            description="Longest chunk of question and page in tokens; unset, what the model takes. Longer pages are "
            "split into chunks that overlap.",
        ),
    ] = None
    doc_stride: Annotated[
        int | None,
        pydantic.Field(gt=0, description="Tokens by which chunks overlap; unset, half of a chunk and 256 at most."),
    ] = None
    max_question_len: Annotated[
        int | None, pydantic.Field(gt=0, description="Cut questions at this many tokens; unset, they are not cut.")
    ] = None
    padding: Annotated[
        Padding | None, pydantic.Field(description="Pad each chunk by itself; batches are padded anyway.")
    ] = None
    lang: Annotated[
        str | None, pydantic.Field(description="Language of the OCR as Tesseract calls it, e.g. `deu`; unset, English.")
    ] = None
    tesseract_config: Annotated[str | None, pydantic.Field(description="Further flags for Tesseract.")] = None


def to_item(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Question, picture and words as the pipeline takes them, those that there are."""
    question = require_text(fields["question"], "question")
    if not question.strip():
        raise InvalidInput("question: expected a question; got an empty string.")
    item: dict[str, Any] = {"question": question}
    if "image" in fields:
        item["image"] = fields["image"]
    if "word_boxes" in fields:
        item["word_boxes"] = [_parse_word(pair, index) for index, pair in enumerate(fields["word_boxes"])]
    if len(item) == 1:
        raise InvalidInput("image, word_boxes: expected at least one of them; the row has neither.")
    return item


def _parse_word(pair: Any, index: int) -> tuple[str, list[int]]:
    """A word and its box, checked: boxes beyond the model's coordinates would cost a GPU's process."""
    where = f"word_boxes[{index}]"
    try:
        word, box = (pair["word"], pair["box"]) if isinstance(pair, Mapping) else pair
        box = [round(float(value)) for value in box]
    except (TypeError, ValueError, KeyError):
        raise InvalidInput(f"{where}: expected a word and a box [x0, y0, x1, y1]; got {pair!r:.60}.") from None
    if len(box) != 4 or not all(0 <= value <= LARGEST_COORDINATE for value in box):
        raise InvalidInput(f"{where}: expected a box [x0, y0, x1, y1] of 0 to {LARGEST_COORDINATE}; got {box}.")
    if box[0] > box[2] or box[1] > box[3]:
        raise InvalidInput(f"{where}: expected a box with x0 <= x1 and y0 <= y1; got {box}.")
    return require_text(word, where), box


def words_type() -> pa.DataType:
    """`list<struct<word, box>>`: words read off a picture, as `word_boxes` takes them."""
    import pyarrow as pa

    return pa.list_(pa.struct([("word", pa.string()), ("box", pa.list_(pa.int32()))]))


def _reads_words(pipe: Any) -> bool:
    """Whether the pipeline is one of this project's whose model reads words: pipelines of users do as they like."""
    return bool(getattr(pipe, "reads_words", False))


def _words_of_item(pipe: Any, item: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    if "image" not in item or "word_boxes" in item:
        return None
    return [{"word": word, "box": box} for word, box in pipe.words_of(item["image"], **pipe._preprocess_params)]


def pipeline_parameters(parameters: DocumentQuestionAnsweringParameters) -> dict[str, Any]:
    """The pipeline's keyword arguments."""
    return parameters.model_dump(exclude_unset=True, exclude_none=True)


def result_type(parameters: DocumentQuestionAnsweringParameters) -> pa.DataType:
    """`list<struct<score, answer, start, end>>`; generative models give an answer alone, which may be null."""
    import pyarrow as pa

    answer = [("score", pa.float32()), ("answer", pa.string()), ("start", pa.int32()), ("end", pa.int32())]
    return pa.list_(pa.struct(answer))


def to_result(result: Any, parameters: DocumentQuestionAnsweringParameters) -> Any:
    """The answers, best first."""
    answers = [result] if isinstance(result, dict) else result
    return [{name: answer.get(name) for name in ("score", "answer", "start", "end")} for answer in answers]


TASK = Task(
    name="document-question-answering",
    summary="Answers to a question about a page, from its words and their places.",
    inputs=(
        Field("question", "text", "The question."),
        Field("image", "image", "The picture of the page.", required=False),
        Field(
            "word_boxes",
            "any",
            "The words of the page: pairs (or structs {word, box}) of a word and its box [x0, y0, x1, y1], in "
            "thousandths of width and height; unset, they are read off the picture.",
            required=False,
        ),
    ),
    parameters=DocumentQuestionAnsweringParameters,
    result_type=result_type,
    result_description="list of {score, answer, start, end}, best first; start and end count words",
    to_item=to_item,
    to_result=to_result,
    pipeline_parameters=pipeline_parameters,
    pipeline_class="ray_pipelines.engine.pipelines.document_question_answering:DocumentQuestionAnsweringPipeline",
    kept_outputs=("spans", "null_score", "confidence", "words", "sequences"),
    chunked=True,
    preparation=Preparation("word_boxes", "image", "__words", words_type, _reads_words, _words_of_item),
)
