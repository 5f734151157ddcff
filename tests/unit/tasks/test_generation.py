"""Parameters of generation: the fields of `GenerationConfig`, and what is handed on of them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from pydantic import ValidationError
from transformers import CompileConfig, GenerationConfig, SynthIDTextWatermarkingConfig, WatermarkingConfig
from transformers.generation.configuration_utils import ALL_CACHE_IMPLEMENTATIONS

from ray_pipelines.tasks._generation import (
    MOVED_TO_THE_HUB,
    CacheImplementation,
    GenerationParameters,
    generation_arguments,
    is_sampling,
)

NO_PARAMETERS = {"transformers_version", "continuous_batching_config"}


def test_fields_are_those_of_generation_config() -> None:
    known = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    assert set(GenerationParameters.model_fields) == known - NO_PARAMETERS - set(MOVED_TO_THE_HUB)


def test_cache_implementations_are_those_of_transformers() -> None:
    assert set(CacheImplementation.__args__) == set(ALL_CACHE_IMPLEMENTATIONS)


def test_all_are_optional_and_described() -> None:
    assert generation_arguments(GenerationParameters()) == {}
    for name, info in GenerationParameters.model_fields.items():
        assert info.default is None and info.description, name


def test_only_what_the_user_set_is_handed_on() -> None:
    class Parameters(GenerationParameters):
        truncation: bool = False

    parameters = Parameters(num_beams=2, max_length=None, sequence_bias=[([3, 4], -1.5)], truncation=True)
    assert generation_arguments(parameters) == {"num_beams": 2, "sequence_bias": [[[3, 4], -1.5]]}


def test_settings_that_generate_takes_as_objects_are_made_so() -> None:
    arguments = generation_arguments(
        GenerationParameters(compile_config={"mode": "default"}, watermarking_config={"bias": 2.5})
    )
    assert isinstance(arguments["compile_config"], CompileConfig)
    assert isinstance(arguments["watermarking_config"], WatermarkingConfig)
    synth_id = generation_arguments(GenerationParameters(watermarking_config={"ngram_len": 5, "keys": [1, 2]}))
    assert isinstance(synth_id["watermarking_config"], SynthIDTextWatermarkingConfig)


@pytest.mark.parametrize("name", MOVED_TO_THE_HUB)
def test_what_transformers_moved_out_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ValidationError, match=f"{name}: expected nothing.*moved out"):
        GenerationParameters(**{name: 1})


@pytest.mark.parametrize(
    ("asked", "of_model", "of_pipeline", "expected"),
    [
        (True, False, False, True),
        (False, True, True, False),
        (None, True, False, True),
        (None, False, True, False),
        (None, None, True, True),
        (None, None, None, False),
    ],
)
def test_sampling_is_decided_by_the_user_then_the_model_then_the_pipeline(
    asked: bool | None, of_model: bool | None, of_pipeline: bool | None, expected: bool
) -> None:
    pipe = SimpleNamespace(
        model=SimpleNamespace(generation_config=GenerationConfig(do_sample=of_model)),
        _generation_defaults={"do_sample": of_pipeline},
    )
    assert is_sampling(pipe, GenerationParameters(do_sample=asked)) is expected


def test_a_model_that_cannot_generate_does_not_sample() -> None:
    assert not is_sampling(SimpleNamespace(model=SimpleNamespace()), GenerationParameters())
