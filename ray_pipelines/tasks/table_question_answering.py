"""table-question-answering: answers to questions about a table, as cells of it.

A row has one table and one question or several; the result is a list with one answer per question, also where
transformers unwraps a single one. Cells that are not strings are written as text, as TAPAS wants them. Rows run one by
one: transformers cannot batch tables, and with `sequential` the questions of a row build on one another.

A bug of transformers 5.23 is put right: the caller's dictionary is changed (its table becomes a data frame).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic

from ray_pipelines.errors import InvalidInput
from ray_pipelines.tasks import Field, Parameters, Task, require_text
from ray_pipelines.tasks._tokenizer import Padding

if TYPE_CHECKING:
    import pyarrow as pa


class TableQuestionAnsweringParameters(Parameters):
    """Parameters of table-question-answering."""

    sequential: Annotated[
        bool,
        pydantic.Field(
            description="Ask the questions of a row one after the other, each with the answer to the last, as models "
            "of conversations (SQA) want it."
        ),
    ] = False
    padding: Annotated[
        Padding, pydantic.Field(description="How the questions of one row are padded to share a forward.")
    ] = True
    truncation: Annotated[
        bool | Literal["drop_rows_to_fit", "do_not_truncate"] | None,
        pydantic.Field(
            description="Whether rows of the table are dropped until it fits the model; unset, they are for TAPAS."
        ),
    ] = None


def to_item(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The table as a data frame of strings, and the question or list of questions."""
    return {"table": _to_frame(fields["table"]), "query": _to_queries(fields["query"])}


def _to_queries(value: Any) -> list[str]:
    queries = [value] if isinstance(value, str) else value
    if not isinstance(queries, list | tuple) and not hasattr(queries, "tolist"):
        raise InvalidInput(f"query: expected a string or a list of strings; got {type(value).__name__}.")
    queries = [require_text(query, "query") for query in queries]
    if not queries or not all(query.strip() for query in queries):
        raise InvalidInput("query: expected a question; got an empty one.")
    return queries


def _to_frame(value: Any) -> Any:
    import pandas as pd

    if isinstance(value, list | tuple) and value and all(isinstance(cell, tuple) and len(cell) == 2 for cell in value):
        value = dict(value)
    if isinstance(value, Mapping):
        columns = {name: cells for name, cells in value.items() if cells is not None}
        if any(isinstance(cells, str) or not hasattr(cells, "__len__") for cells in columns.values()):
            raise InvalidInput("table: expected a list of cells for each column; got a single value.")
        if len({len(cells) for cells in columns.values()}) > 1:
            sizes = ", ".join(f"{name}: {len(cells)}" for name, cells in columns.items())
            raise InvalidInput(f"table: expected columns of equal length; got {sizes}.")
        frame = pd.DataFrame({str(name): pd.Series(list(cells), dtype=object) for name, cells in columns.items()})
    elif isinstance(value, pd.DataFrame):
        frame = value.astype(object).reset_index(drop=True)
    elif isinstance(value, list | tuple) and all(isinstance(row, Mapping) for row in value):
        frame = pd.DataFrame([dict(row) for row in value], dtype=object)
    else:
        raise InvalidInput(
            f"table: expected columns {{name: cells}}, a list of rows or a data frame; got {type(value).__name__}."
        )
    if frame.empty:
        raise InvalidInput("table: expected rows; got an empty table.")
    frame = frame.map(lambda cell: "" if pd.api.types.is_scalar(cell) and pd.isna(cell) else str(cell))
    if not any(str(text).strip() for text in (*frame.columns, *frame.to_numpy().flat)):
        raise InvalidInput("table: expected text in a header or a cell; all of them are empty.")
    return frame


def pipeline_parameters(parameters: TableQuestionAnsweringParameters) -> dict[str, Any]:
    """The pipeline's keyword arguments."""
    return parameters.model_dump(exclude_unset=True, exclude_none=True)


def result_type(parameters: TableQuestionAnsweringParameters) -> pa.DataType:
    """`list<struct<answer, coordinates: list<struct<row, column>>, cells: list<string>, aggregator>>`."""
    import pyarrow as pa

    coordinate = pa.struct([("row", pa.int32()), ("column", pa.int32())])
    answer = [
        ("answer", pa.string()),
        ("coordinates", pa.list_(coordinate)),
        ("cells", pa.list_(pa.string())),
        ("aggregator", pa.string()),
    ]
    return pa.list_(pa.struct(answer))


def to_result(result: Any, parameters: TableQuestionAnsweringParameters) -> Any:
    """One answer per question."""
    answers = [result] if isinstance(result, dict) else result
    return [
        {
            "answer": answer["answer"],
            "coordinates": [{"row": int(row), "column": int(column)} for row, column in answer.get("coordinates", ())],
            "cells": list(answer.get("cells", ())),
            "aggregator": answer.get("aggregator"),
        }
        for answer in answers
    ]


TASK = Task(
    name="table-question-answering",
    summary="Answers to questions about a table, as cells of it.",
    inputs=(
        Field("table", "any", "The table: {column: cells}, a list of rows, or a data frame."),
        Field("query", "any", "The question, or a list of questions."),
    ),
    parameters=TableQuestionAnsweringParameters,
    result_type=result_type,
    result_description="one {answer, coordinates, cells, aggregator} per question; the aggregator may be null",
    to_item=to_item,
    to_result=to_result,
    pipeline_parameters=pipeline_parameters,
    pipeline_class="ray_pipelines.engine.pipelines.table_question_answering:TableQuestionAnsweringPipeline",
    batched=False,
    splittable=False,
)
