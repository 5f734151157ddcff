"""text2text-generation, summarization and translation: lengths, languages, names and the registry."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers.pipelines import PIPELINE_REGISTRY

import ray_pipelines as rp
from ray_pipelines import tasks
from ray_pipelines.engine import pipelines
from ray_pipelines.engine.hub import default_model
from tests.cases.dropped_text import RECORDED
from tests.golden.record_text import TEXTS

Model = Callable[[str], str]


def run(task: str, model: str, items: list[Any], **parameters: Any) -> list[Any]:
    return rp.pipeline(task, model=model, device="cpu", **parameters).run(items)


def num_tokens(result: Any) -> int:
    (ids,) = result[0].values()
    return len(ids)


def test_max_length_of_the_user_holds(model: Model) -> None:
    (result,) = run("text2text-generation", model("t5-text2text"), TEXTS[:1], max_length=7, return_tensors=True)
    assert num_tokens(result) == 7


def test_max_length_holds_when_it_comes_with_the_call(model: Model) -> None:
    pipelines.register()
    pipe = transformers.pipeline("summarization", model=model("bart-text2text"), device="cpu")
    assert num_tokens(pipe(TEXTS[0], max_length=7, return_tensors=True)) == 7


def test_max_length_of_the_user_holds_against_new_tokens_of_the_model(model: Model) -> None:
    pipelines.register()
    pipe = transformers.pipeline("text2text-generation", model=model("bart-text2text"), device="cpu")
    pipe.model.generation_config.max_new_tokens = 3
    assert num_tokens(pipe(TEXTS[0], return_tensors=True)) == 4
    assert num_tokens(pipe(TEXTS[0], max_length=7, return_tensors=True)) == 7


def test_settings_of_the_model_for_a_task_hold_unless_the_user_says_otherwise(model: Model) -> None:
    t5 = model("t5-text2text")
    (result,) = run("summarization", t5, TEXTS[:1], return_tensors=True)
    assert num_tokens(result) <= 24
    (result,) = run("summarization", t5, TEXTS[:1], return_tensors=True, max_new_tokens=30, min_new_tokens=30)
    assert num_tokens(result) == 31
    pipe = transformers.pipeline("summarization", model=t5, device="cpu")
    assert pipe._prepare_generate_kwargs({})["num_beams"] == 2
    assert pipe._prepare_generate_kwargs({"num_beams": 3})["num_beams"] == 3
    assert pipe.prefix == "A short text: "


def test_token_ids_end_with_the_row_itself(model: Model) -> None:
    results = run(
        "text2text-generation", model("bart-text2text"), TEXTS, max_new_tokens=12, num_beams=1, return_tensors=True
    )
    pad = transformers.AutoTokenizer.from_pretrained(model("bart-text2text")).pad_token_id
    assert all(record["generated_token_ids"][-1] != pad for result in results for record in result)


def test_generation_stops_after_the_whole_string(model: Model) -> None:
    t5 = model("t5-text2text")
    (free,) = run("text2text-generation", t5, TEXTS[:1], num_beams=1, max_new_tokens=20)
    (stopped,) = run("text2text-generation", t5, TEXTS[:1], num_beams=1, max_new_tokens=20, stop_sequence="ëë")
    assert stopped[0]["generated_text"] == "ëë" != free[0]["generated_text"]


def test_each_row_has_its_own_languages_or_those_of_the_task(model: Model) -> None:
    nllb = model("nllb-translation")
    arguments = {"max_new_tokens": 6}
    named = run("translation_eng_Latn_to_fra_Latn", nllb, TEXTS[:3], **arguments)
    asked = run("translation", nllb, TEXTS[:3], src_lang="eng_Latn", tgt_lang="fra_Latn", **arguments)
    rows = [{"text": text, "src_lang": "eng_Latn", "tgt_lang": "fra_Latn"} for text in TEXTS[:3]]
    assert named == asked == run("translation_deu_Latn_to_deu_Latn", nllb, rows, **arguments)
    assert named != run("translation_eng_Latn_to_deu_Latn", nllb, TEXTS[:3], **arguments)


def test_languages_of_the_task_stay_behind_those_that_the_user_names(model: Model) -> None:
    nllb, arguments = model("nllb-translation"), {"max_new_tokens": 6}
    asked = run("translation_eng_Latn_to_deu_Latn", nllb, TEXTS[:2], tgt_lang="fra_Latn", **arguments)
    assert asked == run("translation_eng_Latn_to_fra_Latn", nllb, TEXTS[:2], **arguments)


@pytest.mark.parametrize(
    ("name", "task", "languages", "message"),
    [
        ("nllb-translation", "translation", {}, "src_lang, tgt_lang: this model needs both"),
        ("nllb-translation", "translation_en_to_fra_Latn", {}, 'src_lang: expected a language of this model; got "en"'),
        ("mbart-translation", "translation_en_XX_to_ro", {}, 'tgt_lang: expected a language of this model; got "ro"'),
        ("mbart-translation", "translation", {"src_lang": "en_XX"}, "src_lang, tgt_lang: this model needs both"),
    ],
)
def test_a_missing_or_unknown_language_is_named(
    model: Model, name: str, task: str, languages: dict[str, str], message: str
) -> None:
    (result,) = run(task, model(name), TEXTS[:1], **languages)
    assert isinstance(result, rp.RowError) and message in result.message


def test_languages_that_the_model_does_not_take_are_warned_about(model: Model, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        run("translation_en_to_fr", model("t5-text2text"), TEXTS[:1], src_lang="en", max_new_tokens=2)
    assert "src_lang: this model's tokenizer has no languages; ignored." in caplog.text


def test_the_target_language_is_the_first_token() -> None:
    with pytest.raises(rp.ConfigError, match="forced_bos_token_id: expected nothing beside tgt_lang"):
        rp.pipeline("translation", model="org/nothing", tgt_lang="fra_Latn", forced_bos_token_id=3)


@pytest.mark.parametrize("name", ["translation_en_to_fr", "translation_xx_to_yy", "translation_eng_Latn_to_zho_Hans"])
def test_any_pair_of_languages_is_a_task(name: str) -> None:
    for task in (tasks.get(name), tasks.resolve(name)):
        assert task.name == name
        assert task.parameters is tasks.get("translation").parameters


@pytest.mark.parametrize("name", ["translation_", "translation_en", "translation_en_fr", "translations_en_to_fr"])
def test_other_names_are_no_task(name: str) -> None:
    with pytest.raises(rp.ConfigError, match="there is no task"):
        tasks.get(name)


def test_registering_again_does_no_harm(caplog: Any) -> None:
    for _ in range(2):
        pipelines.register("translation_en_to_eo")
        before = dict(PIPELINE_REGISTRY.supported_tasks)
    with caplog.at_level(logging.WARNING):
        pipelines.register("translation_en_to_eo")
    assert before == PIPELINE_REGISTRY.supported_tasks
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("question-answering", ("distilbert/distilbert-base-cased-distilled-squad", "564e9b5")),
        ("summarization", ("sshleifer/distilbart-cnn-12-6", "a4f8f3e")),
        ("text2text-generation", ("google-t5/t5-base", "a9723ea")),
        ("translation", ("google-t5/t5-base", "a9723ea")),
        ("translation_en_to_fr", ("google-t5/t5-base", "a9723ea")),
    ],
)
def test_default_models_are_those_of_old(name: str, expected: tuple[str, str]) -> None:
    assert default_model(name) == expected


def test_a_pair_that_the_default_model_does_not_know_has_none() -> None:
    with pytest.raises(rp.ConfigError, match="has no default model"):
        default_model("translation_en_to_fi")


def test_pipelines_are_called_as_before(model: Model) -> None:
    pipelines.register()
    (case,) = (case for case in RECORDED["cases"] if case["name"] == "text2text-bart")
    pipe = transformers.pipeline(case["task"], model=model(case["model"]), device="cpu", **case["parameters"])
    assert pipe(TEXTS[0]) == case["expected"][0]
    assert pipe(TEXTS) == [result for (result,) in case["expected"]] == pipe(TEXTS, batch_size=4)
    assert pipe(TEXTS[:2], num_return_sequences=2) == [pipe(text, num_return_sequences=2) for text in TEXTS[:2]]


def test_a_row_that_samples_runs_by_itself(model: Model) -> None:
    task = tasks.get("summarization")
    pipe = transformers.pipeline("summarization", model=model("bart-text2text"), device="cpu")
    assert task.is_random(pipe, task.parameters(do_sample=True))
    assert not task.is_random(pipe, task.parameters())


@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_texts_share_a_forward_unless_padding_moves_their_positions(
    padding_side: str, model: Model, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model("bart-text2text"), folder)
    transformers.AutoTokenizer.from_pretrained(folder, padding_side=padding_side).save_pretrained(folder)
    texts = ["A dog", "Two dogs and a cat", "Nothing", "The sun shines over the hills"]
    spec = rp.pipeline("text2text-generation", str(folder), device="cpu", max_new_tokens=6)
    singly = [spec.run([text], on_error="raise")[0] for text in texts]
    pipe = spec._runner().steps.pipe
    assert pipe._pads is None
    assert spec.run(texts) == singly == spec.run(texts)
    assert pipe._pads is (padding_side == "right")
