"""What the tasks of encoder-decoder text models share: parameters, and results as lists of texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic

from ray_pipelines.tasks import require_text
from ray_pipelines.tasks._generation import GenerationParameters, generation_arguments

if TYPE_CHECKING:
    import pyarrow as pa


class Seq2SeqParameters(GenerationParameters):
    """Parameters of tasks that make texts of texts."""

    truncation: Annotated[
        bool | Literal["longest_first", "only_first", "do_not_truncate"],
        pydantic.Field(
            description="Cut inputs at the length that the model takes; a longer one is else a dead letter."
        ),
    ] = False
    return_tensors: Annotated[
        bool, pydantic.Field(description="Return the ids of the generated tokens, rather than their text.")
    ] = False
    clean_up_tokenization_spaces: Annotated[
        bool, pydantic.Field(description="Take out spaces before punctuation that the tokenizer left in the text.")
    ] = False
    stop_sequence: Annotated[
        str | None, pydantic.Field(description="Generation stops after this string; like `stop_strings`.")
    ] = None

    @pydantic.model_validator(mode="after")
    def _one_way_to_stop(self) -> Seq2SeqParameters:
        if self.stop_sequence is not None and self.stop_strings is not None:
            raise ValueError("stop_sequence: expected nothing beside stop_strings; got both. Drop one.")
        return self


def to_item(fields: Mapping[str, Any]) -> Any:
    """The text."""
    return require_text(fields["text"])


def pipeline_parameters(parameters: Seq2SeqParameters) -> dict[str, Any]:
    """The pipeline's keyword arguments: those of its own and those of `generate`."""
    own = parameters.model_dump(exclude_unset=True, exclude=set(GenerationParameters.model_fields))
    return {**own, **generation_arguments(parameters)}


def result_type(key: str) -> Callable[[Seq2SeqParameters], pa.DataType]:
    """A function that gives `list<struct<KEY_text: string>>`, or `list<struct<KEY_token_ids: list<int32>>>`."""

    def of(parameters: Seq2SeqParameters) -> pa.DataType:
        import pyarrow as pa

        if parameters.return_tensors:
            return pa.list_(pa.struct([(f"{key}_token_ids", pa.list_(pa.int32()))]))
        return pa.list_(pa.struct([(f"{key}_text", pa.string())]))

    return of


def to_result(result: Any, parameters: Seq2SeqParameters) -> Any:
    """The generated texts, or token ids as numpy arrays `int32[length]`."""
    if not parameters.return_tensors:
        return result
    return [{key: ids.cpu().numpy().astype("int32") for key, ids in record.items()} for record in result]
