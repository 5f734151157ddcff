"""translation and translation_xx_to_yy, which transformers 5 dropped: by models like Marian, T5, mBART and NLLB.

Multilingual models (mBART, M2M100, NLLB, SeamlessM4T) need a source and a target language in the model's own codes; the
task's name gives them, or `src_lang` and `tgt_lang`, which may differ from row to row. Models of the T5 kind find their
prefix by the task's name; for plain `translation` the first that their configuration has.

Source: the behaviour of transformers 4.57.6, pipelines/text2text_generation.py. What differs, beside what `_seq2seq`
says: codes with underscores are read from the task's name (`translation_eng_Latn_to_fra_Latn`), and a language that the
model does not have is refused; there, the unknown token stood in for it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM
from transformers.pipelines import PIPELINE_REGISTRY

from ray_pipelines.engine.pipelines import register_task
from ray_pipelines.engine.pipelines._seq2seq import Seq2SeqPipeline
from ray_pipelines.errors import InvalidInput

__all__ = ["TranslationPipeline", "register", "register_pair"]

logger = logging.getLogger(__name__)

NAME = re.compile(r"translation_(?P<src_lang>.+?)_to_(?P<tgt_lang>.+)")
DEFAULT_MODEL = ("google-t5/t5-base", "a9723ea")
PAIRS_OF_DEFAULT_MODEL = ("translation_en_to_fr", "translation_en_to_de", "translation_en_to_ro")


class TranslationPipeline(Seq2SeqPipeline):
    """Translates texts: a list of `{translation_text}` for each."""

    return_name = "translation"

    def _task_specific_params(self) -> Mapping[str, Any]:
        of_tasks: Mapping[str, Any] = getattr(self.model.config, "task_specific_params", None) or {}
        first = next((name for name in of_tasks if name.startswith("translation")), self.task)
        if self.task != "translation" or first == self.task:
            return super()._task_specific_params()
        logger.warning('The task "translation" names no languages; taking "%s", the first of the model.', first)
        return of_tasks[first] or {}

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        asked = {name: kwargs.pop(name, None) for name in ("src_lang", "tgt_lang")}
        languages = {name: language for name, language in asked.items() if language is not None}
        if languages and not self.is_multilingual:
            logger.warning("%s: this model's tokenizer has no languages; ignored.", ", ".join(languages))
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        return {**preprocess, **languages}, forward, postprocess

    @property
    def is_multilingual(self) -> bool:
        """Whether the tokenizer has to be told the languages."""
        return hasattr(self.tokenizer, "_build_translation_inputs")

    def preprocess(
        self,
        inputs: str | list[str],
        truncation: bool | str = False,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
    ) -> Any:
        """The tokens of a text, and for multilingual models the first token of its translation."""
        if not self.is_multilingual:
            return super().preprocess(inputs, truncation=truncation)
        named = NAME.fullmatch(self.task or "")
        src_lang = src_lang or (named["src_lang"] if named else None)
        tgt_lang = tgt_lang or (named["tgt_lang"] if named else None)
        if src_lang is None or tgt_lang is None:
            raise InvalidInput("src_lang, tgt_lang: this model needs both; got none for one of them. Set them.")
        try:
            encoded = self.tokenizer._build_translation_inputs(
                inputs, return_tensors="pt", truncation=truncation, src_lang=src_lang, tgt_lang=tgt_lang
            )
        except KeyError as error:
            raise InvalidInput(f"src_lang, tgt_lang: the model has no language {error}.") from None
        unknown = self.tokenizer.unk_token_id
        first_token = encoded.pop("forced_bos_token_id")
        for name, language, token in (
            ("src_lang", src_lang, getattr(self.tokenizer, "cur_lang_code", None)),
            ("tgt_lang", tgt_lang, first_token),
        ):
            if unknown is not None and token == unknown:
                raise InvalidInput(f'{name}: expected a language of this model; got "{language}".')
        encoded.pop("token_type_ids", None)
        return {**encoded, "forced_bos_token_id": torch.tensor([[first_token]] * len(encoded["input_ids"]))}


def register() -> None:
    """Makes the task known to transformers."""
    register_task("translation", TranslationPipeline, (AutoModelForSeq2SeqLM,), default=DEFAULT_MODEL)
    for name in PAIRS_OF_DEFAULT_MODEL:
        register_pair(name)


def register_pair(name: str) -> None:
    """Makes a task `translation_xx_to_yy` known to transformers, unless it or its name is not of that kind.

    Only pairs that the default model was trained for have one.
    """
    if NAME.fullmatch(name) and name not in PIPELINE_REGISTRY.supported_tasks:
        default = DEFAULT_MODEL if name in PAIRS_OF_DEFAULT_MODEL else None
        register_task(name, TranslationPipeline, (AutoModelForSeq2SeqLM,), default=default)
