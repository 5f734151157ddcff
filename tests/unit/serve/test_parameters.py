from __future__ import annotations

import itertools
import warnings
from typing import Any

import pytest

from ray_pipelines import tasks
from ray_pipelines.serve.config import ClientLimits
from ray_pipelines.serve.parameters import DENIED, FLATTENED, client_parameters, parameter_names
from ray_pipelines.serve.refusals import Refused

LIMITS = ClientLimits()


def accepted(task: str, sent: dict[str, Any]) -> Any:
    return client_parameters(tasks.get(task), sent, {}, LIMITS, 1000)


def test_null_is_as_if_it_were_not_there() -> None:
    assert dict(accepted("text-generation", {"temperature": None, "stop": None, "seed": None}).task) == {}


def test_names_of_text_generation_inference_are_understood() -> None:
    made = accepted("text-generation", {"stop": ["a"], "seed": 7, "truncate": 5, "details": True, "best_of": 1})
    assert (dict(made.task), made.seed, made.truncate_tokens, made.details) == ({"stop_sequence": ("a",)}, 7, 5, True)


@pytest.mark.parametrize(
    "sent",
    [
        {"temperature": 1e-30},
        {"temperature": 1e30},
        {"repetition_penalty": 1e30},
        {"guidance_scale": -1.0},
        {"suppress_tokens": [1000]},
        {"bad_words_ids": [[1, 5000]]},
        {"sequence_bias": [[[2000], 1.0]]},
        {"sequence_bias": [[[5], 1e39]]},
        {"sequence_bias": [[[5], "-1e39"]]},
        {"sequence_bias": [[[5], "nan"]]},
        {"max_new_tokens": "1000000"},
        {"num_beams": "1000"},
        {"temperature": "1e-30"},
        {"encoder_repetition_penalty": "inf"},
        {"suppress_tokens": ["1000"]},
        {"eos_token_id": "1000"},
        {"forced_bos_token_id": 10**9},
        {"eos_token_id": [1, 10**20]},
        {"encoder_no_repeat_ngram_size": 10**7},
        {"no_repeat_ngram_size": 101},
        {"stop": ["a"] * 5},
        {"stop": "a" * 41},
        {"stop_strings": ["a" * 201]},
        {"seed": 2**64},
        {"seed": -1},
        {"seed": True},
        {"truncate": 0},
        {"best_of": 2},
        {"watermark": True},
        {"max_cache_len": 10**9},
        {"return_dict_in_generate": True},
        {"output_attentions": True},
        {"exponential_decay_length_penalty": [1, 1e300]},
        {"custom_generate": "org/repo"},
        {"generate_kwargs": {"custom_generate": "org/repo"}},
        {"chat_template": "{{ x }}"},
        {"model_kwargs": {}},
        {"tools": [{"a": "x" * 2_000_000}]},
        {"tools": [{"a": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}]},
    ],
)
def test_what_would_end_a_process_or_run_code_is_refused_by_name(sent: dict[str, Any]) -> None:
    with pytest.raises(Refused) as error:
        accepted("text-generation", sent)
    assert error.value.status in (413, 422)
    name = {"stop": "stop_sequence"}.get(next(iter(sent)), next(iter(sent)))
    assert name in error.value.message or "parameters" in error.value.message


@pytest.mark.parametrize("name", tasks.names())
def test_no_task_lets_clients_set_what_reaches_into_libraries(name: str) -> None:
    allowed = set(parameter_names(tasks.get(name)))
    assert not allowed & {"custom_generate", "trust_remote_code", "tesseract_config", "vocoder", "assistant_model",
                          "cache_config", "compile_config", "tokenizer_kwargs", "tokenize_kwargs", "timeout",
                          "model_kwargs", "forward_params", "device", "batch_size"}  # fmt: skip


@pytest.mark.parametrize("name", tasks.names())
def test_no_mapping_around_a_parameter_hides_it(name: str) -> None:
    task = tasks.get(name)
    denied = set(task.parameters.model_fields) - set(parameter_names(task)) | {*DENIED, "custom_generate"}
    for parameter in denied - {*FLATTENED, "timeout"}:
        for value in (7, True, "org/repo", {"a": 1}):
            for first, second in itertools.product(FLATTENED, (None, *FLATTENED)):
                inner = {parameter: value}
                with pytest.raises(Refused):
                    accepted(name, {first: inner if second is None else {second: inner}})


def test_values_of_clients_are_not_in_warnings() -> None:
    with warnings.catch_warnings(record=True, action="always") as said:
        made = accepted("text-classification", {"return_all_scores": True, "timeout": 5.0})
    assert dict(made.task) == {"top_k": None} and not said


def test_generation_config_is_as_if_its_fields_stood_by_themselves() -> None:
    made = accepted("text-generation", {"generation_config": {"max_new_tokens": 5, "top_k": None}})
    assert dict(made.task) == {"max_new_tokens": 5}
    with pytest.raises(Refused, match="max_new_tokens"):
        accepted("text-generation", {"generation_config": {"max_new_tokens": 10**7}})


@pytest.mark.parametrize("template", ["{:>9000000}", "{0.__class__.__mro__}", "{}{}", "{", "none", "x" * 400 + "{}"])
def test_templates_have_one_plain_place(template: str) -> None:
    with pytest.raises(Refused):
        accepted("zero-shot-classification", {"hypothesis_template": template})


def test_the_points_of_all_crops_together_have_a_limit() -> None:
    few = {"crops_n_layers": 2, "crop_n_points_downscale_factor": 2}
    for sent in ({"points_per_crop": 64}, {"crops_n_layers": 1}, few):
        assert dict(accepted("mask-generation", sent).task) == sent
    for sent in ({"crops_n_layers": 2}, {"points_per_crop": 64, "crops_n_layers": 1}):
        with pytest.raises(Refused, match="at most 8,192 points"):
            accepted("mask-generation", sent)
    own = client_parameters(tasks.get("mask-generation"), {}, {"crops_n_layers": 3}, LIMITS)
    assert own.task == {"crops_n_layers": 3}, "what the operator sets is not a client's"
