"""visual-question-answering: the answers to a question about an image, of rows with both.

transformers 5 dropped the task; it is written here, with the parameters and the default model of 4.57 and more. A model
such as ViLT scores each answer of its list; one such as BLIP writes an answer, whose `score` is null, and takes every
parameter of generation (`top_k` of sampling, whose name is taken, in `generate_kwargs`).

Put right in `engine/pipelines/visual_question_answering.py`, where transformers 4.57

- fails for a batch of images of different sizes (ViLT);
- changes answers by the questions that share a batch, as the padding of shorter ones is read too (BLIP);
- shows BLIP-2 no image at all, and repeats the question in its answer;
- takes no parameters of generation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import pydantic

from ray_pipelines.tasks import Field, Task, require_text
from ray_pipelines.tasks._generation import generation_arguments
from ray_pipelines.tasks._image_text import IMAGE, ImageTextParameters, draws_numbers
from ray_pipelines.tasks._tokenizer import Padding, Truncation

if TYPE_CHECKING:
    import pyarrow as pa


class VisualQuestionAnsweringParameters(ImageTextParameters):
    """Parameters of visual-question-answering."""

    not_of_generation = frozenset({"top_k"})

    top_k: Annotated[
        int,
        pydantic.Field(
            gt=0,
            description="How many answers of the model's list to return, best first; more than there are gives all. "
            "Models that write their answers give `num_return_sequences`.",
        ),
    ] = 5
    padding: Annotated[
        Padding | None,
        pydantic.Field(description="Pad each question by itself, e.g. to `max_length`; batches are padded anyway."),
    ] = None
    truncation: Annotated[
        Truncation | None,
        pydantic.Field(description="Cut questions at the length that the model takes, rather than let the row fail."),
    ] = None


def to_item(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The image and its question."""
    return {"image": fields["image"], "question": require_text(fields["question"], "question")}


def pipeline_parameters(parameters: VisualQuestionAnsweringParameters) -> dict[str, Any]:
    """The pipeline's keyword arguments."""
    own = parameters.model_dump(include={"top_k", "padding", "truncation", "generate_kwargs"}, exclude_unset=True)
    return {**generation_arguments(parameters), **own}


def result_type(parameters: VisualQuestionAnsweringParameters) -> pa.DataType:
    """`list<struct<score: float, answer: string>>`."""
    import pyarrow as pa

    return pa.list_(pa.struct([("score", pa.float32()), ("answer", pa.string())]))


def to_result(result: Any, parameters: VisualQuestionAnsweringParameters) -> list[dict[str, Any]]:
    """The answers, with a `score` of None where the model wrote them."""
    return [{"score": answer.get("score"), "answer": answer["answer"]} for answer in result]


def is_random(pipe: Any, parameters: VisualQuestionAnsweringParameters) -> bool:
    """Whether the model samples its answers, or the patches of the image that it looks at (ViLT, where so set)."""
    num_patches = getattr(pipe.model.config, "max_image_length", None)
    return (num_patches is not None and num_patches > 0) or draws_numbers(pipe, parameters)


TASK = Task(
    name="visual-question-answering",
    summary="Answers to a question about each image.",
    inputs=(IMAGE, Field("question", "text", "The question about the image.")),
    parameters=VisualQuestionAnsweringParameters,
    result_type=result_type,
    result_description="list of {score, answer}, best first; score is null where the model writes its answers",
    aliases=("vqa",),
    to_item=to_item,
    to_result=to_result,
    pipeline_parameters=pipeline_parameters,
    pipeline_class="ray_pipelines.engine.pipelines.visual_question_answering:VisualQuestionAnsweringPipeline",
    is_random=is_random,
)
