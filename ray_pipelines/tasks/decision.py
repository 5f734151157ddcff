"""decision: answers to typed questions about a state, with a probability for every option.

A question is `noul` (is it so?), `choice` (which option?) or `score` (which level?). Questions are those of the row, or
else of the parameter, which transformers 5.23 documents but refuses. A result is a list with one answer per question,
whatever its type; what a type does not have is null. `legend`, which transformers gives with a score, is left out: it
repeats the question's criteria.

`assets` are pictures by name: wherever a name stands in a text of the state or of a question, the model sees the
picture. They are decoded as all media are, in any form that a picture has in a column and within the same limits.

Rows run one by one (transformers cannot batch them).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic

from ray_pipelines.errors import InvalidInput
from ray_pipelines.tasks import Field, Parameters, Task

if TYPE_CHECKING:
    import pyarrow as pa

ANSWER_FIELDS = ("type", "noul", "choice", "score", "confidence", "probabilities")


class Question(pydantic.BaseModel):
    """A question, its options described by `criteria`."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    type: Annotated[Literal["noul", "choice", "score"], pydantic.Field(description="What is asked for.")]
    instructions: Annotated[Any, pydantic.Field(description="The question itself.")] = None
    criteria: Annotated[
        dict[str, Any] | tuple[Any, ...] | None,
        pydantic.Field(
            description="Of a choice: option to description (or null); of a score: the levels, lowest first; of a "
            "noul: what true and false mean, if that needs saying."
        ),
    ] = None

    @pydantic.model_validator(mode="after")
    def _criteria_fit_the_type(self) -> Question:
        expected = {"noul": dict | None, "choice": dict, "score": tuple}[self.type]
        if not isinstance(self.criteria, expected) or (self.type != "noul" and not self.criteria):
            what = {"noul": "true and false with what they mean", "choice": "options", "score": "a list of levels"}
            raise ValueError(f"criteria: expected {what[self.type]} for a question of type {self.type}.")
        return self


class DecisionParameters(Parameters):
    """Parameters of decision."""

    questions: Annotated[
        dict[str, Question] | None,
        pydantic.Field(description="The questions by name, for rows that bring none of their own."),
    ] = None


def to_item(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The request: the state, and the row's own questions if it has some."""
    request: dict[str, Any] = {"state": fields["state"]}
    if "questions" in fields:
        request["questions"] = _parse_questions(fields["questions"])
    if fields.get("assets"):
        request["assets"] = fields["assets"]
    return request


def _parse_questions(value: Any) -> dict[str, Any]:
    """The questions of a row as plain dictionaries, checked; a struct's null fields are left out."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise InvalidInput(f"questions: expected JSON: {error}.") from None
    if isinstance(value, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
        value = dict(value)
    if not isinstance(value, Mapping):
        raise InvalidInput(f"questions: expected {{name: question}} or its JSON; got {type(value).__name__}.")
    questions = {name: question for name, question in value.items() if question is not None}
    if not questions:
        raise InvalidInput("questions: expected at least one question; got none.")
    try:
        return {name: _plain(Question.model_validate(_without_nulls(asked))) for name, asked in questions.items()}
    except pydantic.ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        message = str(problem["msg"]).removeprefix("Value error, ")
        raise InvalidInput(f"questions: {where + ': ' if where else ''}{message}") from None


def _without_nulls(question: Any) -> Any:
    if not isinstance(question, Mapping):
        return question
    return {name: value for name, value in question.items() if value is not None}


def _plain(question: Question) -> dict[str, Any]:
    plain = question.model_dump(exclude_none=True)
    if question.criteria is not None:
        # An option of a choice may have no description: that null counts.
        plain["criteria"] = dict(question.criteria) if isinstance(question.criteria, dict) else list(question.criteria)
    return plain


def pipeline_parameters(parameters: DecisionParameters) -> dict[str, Any]:
    """The pipeline's keyword arguments."""
    if parameters.questions is None:
        return {}
    return {"questions": {name: _plain(question) for name, question in parameters.questions.items()}}


def result_type(parameters: DecisionParameters) -> pa.DataType:
    """`list<struct<question, type, noul, choice, score, confidence, probabilities: map<string, float>>>`."""
    import pyarrow as pa

    answer = [
        ("question", pa.string()),
        ("type", pa.string()),
        ("noul", pa.float32()),
        ("choice", pa.string()),
        ("score", pa.float32()),
        ("confidence", pa.float32()),
        ("probabilities", pa.map_(pa.string(), pa.float32())),
    ]
    return pa.list_(pa.struct(answer))


def to_result(result: Any, parameters: DecisionParameters) -> Any:
    """One answer per question, with null where its type has no such field."""
    return [
        {"question": question, **{name: answer.get(name) for name in ANSWER_FIELDS}}
        for question, answer in result.items()
    ]


TASK = Task(
    name="decision",
    summary="Answers to typed questions about a state, with a probability for every option.",
    inputs=(
        Field("state", "any", "What the questions are about: a text, or a structure of texts and numbers."),
        Field(
            "questions",
            "any",
            "This row's questions by name, as structs {type, instructions, criteria} or as JSON; unset, those of the "
            "parameter.",
            required=False,
        ),
        Field(
            "assets",
            "named images",
            "Pictures by the names that stand for them in the state and the questions, as a struct or map of pictures; "
            "for models that see.",
            required=False,
        ),
    ),
    parameters=DecisionParameters,
    result_type=result_type,
    result_description="one {question, type, noul, choice, score, confidence, probabilities} per question",
    to_item=to_item,
    to_result=to_result,
    pipeline_parameters=pipeline_parameters,
    pipeline_class="ray_pipelines.engine.pipelines.decision:DecisionPipeline",
    batched=False,
    splittable=False,
)
