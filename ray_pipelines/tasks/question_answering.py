"""question-answering: the span of a context that answers a question.

Contexts longer than the model are split into chunks that overlap; spans of the same text add up over the chunks, so
that a score is no probability there. A result always is a list, best first; with `handle_impossible_answer`, the answer
"" with start and end 0 stands for none.

transformers 5 dropped this task; `engine/pipelines/question_answering.py` has it. Bugs of its last release (4.57.6)
that are put right: where a context has fewer spans than candidates are looked at, impossible spans with a score of 0
filled the list; `max_question_len` did nothing; with tokenizers that pad at the left (XLNet), tokens of the question
could be answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic

from ray_pipelines.errors import InvalidInput
from ray_pipelines.tasks import Field, Parameters, Task, require_text

if TYPE_CHECKING:
    import pyarrow as pa


class QuestionAnsweringParameters(Parameters):
    """Parameters of question-answering."""

    top_k: Annotated[int, pydantic.Field(gt=0, description="How many answers to return at most, best first.")] = 1
    handle_impossible_answer: Annotated[
        bool,
        pydantic.Field(description='Let there be no answer, for models that were trained for it: "", from 0 to 0.'),
    ] = False
    max_answer_len: Annotated[int, pydantic.Field(gt=0, description="Tokens of an answer at most.")] = 15
    align_to_words: Annotated[
        bool,
        pydantic.Field(
            description="Widen answers to whole words; unset it for languages without spaces (Japanese, Chinese)."
        ),
    ] = True
    doc_stride: Annotated[
        int | None,
        pydantic.Field(
            ge=0,
            description="Tokens that two chunks of a long context share; unset, half of `max_seq_len`, 128 at most.",
        ),
    ] = None
    max_seq_len: Annotated[
        int | None,
        pydantic.Field(
            gt=0,
            description="Tokens of a chunk with its question; unset, as many as the model takes, 384 at most.",
        ),
    ] = None
    max_question_len: Annotated[
        int | None, pydantic.Field(gt=0, description="Tokens at which a question is cut; unset, it is not.")
    ] = None
    padding: Annotated[
        bool | Literal["longest", "max_length", "do_not_pad"],
        pydantic.Field(description="Pad each chunk by itself, e.g. to `max_seq_len`; batches are padded anyway."),
    ] = "do_not_pad"

    @pydantic.model_validator(mode="after")
    def _chunks_overlap_in_part(self) -> QuestionAnsweringParameters:
        if self.doc_stride is not None and self.max_seq_len is not None and self.doc_stride >= self.max_seq_len:
            raise ValueError(
                f"doc_stride: expected less than max_seq_len ({self.max_seq_len}); got {self.doc_stride}. Lower it."
            )
        return self


def to_item(fields: Mapping[str, Any]) -> dict[str, str]:
    """The question and its context.

    Raises:
        InvalidInput: One of them is no text or has none.
    """
    item = {name: require_text(fields[name], name) for name in ("question", "context")}
    for name, text in item.items():
        if not text.strip():
            raise InvalidInput(f"{name}: expected a text; got an empty one.")
    return item


def result_type(parameters: QuestionAnsweringParameters) -> pa.DataType:
    """`list<struct<score: double, start: int32, end: int32, answer: string>>`."""
    import pyarrow as pa

    span = [("start", pa.int32()), ("end", pa.int32()), ("answer", pa.string())]
    return pa.list_(pa.struct([("score", pa.float64()), *span]))


def to_result(result: Any, parameters: QuestionAnsweringParameters) -> Any:
    """The answers as a list, also where there is one."""
    return [result] if isinstance(result, dict) else result


TASK = Task(
    name="question-answering",
    summary="The span of a context that answers a question.",
    inputs=(
        Field("question", "text", "The question."),
        Field("context", "text", "The text that holds the answer, of any length."),
    ),
    parameters=QuestionAnsweringParameters,
    result_type=result_type,
    result_description="list of {score, start, end, answer}, best first; start and end are characters of the context",
    to_item=to_item,
    to_result=to_result,
    chunked=True,
)
