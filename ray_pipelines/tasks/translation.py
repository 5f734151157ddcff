"""translation: each text in another language. The task may be named `translation_xx_to_yy`, which gives the languages.

Models of one pair (Marian) need no languages, and those of the T5 kind take theirs from the task's name. Multilingual
models (mBART, M2M100, NLLB) need `src_lang` and `tgt_lang` in their own codes: in the task's name, as parameters, or as
columns that differ from row to row.

transformers 5 dropped this task; `engine/pipelines/translation.py` has it. Bugs of its last release (4.57.6) that are
put right: a `max_length` holds that the user or the model's `task_specific_params` set, rather than lose to 256 new
tokens; a language that the model does not have is refused, rather than taken for the unknown token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import pydantic

from ray_pipelines.tasks import Field, RowCall, Task, require_text
from ray_pipelines.tasks._generation import is_sampling
from ray_pipelines.tasks._seq2seq import Seq2SeqParameters, pipeline_parameters, result_type, to_result

LANGUAGES = ("src_lang", "tgt_lang")


class TranslationParameters(Seq2SeqParameters):
    """Parameters of translation."""

    src_lang: Annotated[
        str | None,
        pydantic.Field(description="Language of the texts in the code of a multilingual model, e.g. eng_Latn, en_XX."),
    ] = None
    tgt_lang: Annotated[
        str | None,
        pydantic.Field(description="Language to translate into, in the code of a multilingual model."),
    ] = None

    @pydantic.model_validator(mode="after")
    def _language_is_the_first_token(self) -> TranslationParameters:
        if self.tgt_lang is not None and self.forced_bos_token_id is not None:
            raise ValueError(
                "forced_bos_token_id: expected nothing beside tgt_lang, which sets it; got both. Drop one."
            )
        return self


def to_item(fields: Mapping[str, Any]) -> Any:
    """The text, with this row's languages where it has any."""
    text = require_text(fields["text"])
    languages = {name: require_text(fields[name], name) for name in LANGUAGES if name in fields}
    return RowCall(text, languages) if languages else text


TASK = Task(
    name="translation",
    summary="Each text in another language.",
    inputs=(
        Field("text", "text", "The text to translate."),
        Field("src_lang", "text", "Its language, where rows differ (multilingual models).", required=False),
        Field("tgt_lang", "text", "The language to translate into, where rows differ.", required=False),
    ),
    parameters=TranslationParameters,
    result_type=result_type("translation"),
    result_description="list of {translation_text}, or {translation_token_ids} with return_tensors",
    to_item=to_item,
    to_result=to_result,
    pipeline_parameters=pipeline_parameters,
    kept_outputs=("output_ids",),
    takes_assistant=True,
    is_random=is_sampling,
)
