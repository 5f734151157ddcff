"""text-generation: chats, truncation, prompts without room, models whose padding matters."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import transformers

import ray_pipelines as rp
from ray_pipelines.arrow import results_to_arrow
from ray_pipelines.tasks import validate_parameters

Model = Callable[[str], str]
TASK = "text-generation"
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 5, "device": "cpu"}
CHAT = [{"role": "user", "content": "Hello"}]


def test_a_chat_that_comes_out_of_arrow_gives_what_a_list_of_dicts_gives(model: Model) -> None:
    spec = rp.pipeline(TASK, model("llama-chat"), **GREEDY)
    message = pa.struct([("role", pa.string()), ("content", pa.string()), ("name", pa.string())])
    (chat,) = pa.array([CHAT], pa.list_(message)).to_pylist()
    as_map = pa.array([[list(m.items()) for m in CHAT]], pa.list_(pa.map_(pa.string(), pa.string()))).to_pylist()[0]
    plain, struct, pairs = spec.run([CHAT, chat, as_map], on_error="raise")
    assert plain == struct == pairs


def test_results_of_texts_and_chats_share_one_arrow_type(model: Model) -> None:
    spec = rp.pipeline(TASK, model("llama-chat"), **GREEDY)
    results = spec.run(["Hello", CHAT, [*CHAT, {"role": "assistant", "content": "Well"}]], on_error="raise")
    text, _, continued = (result[0]["generated_text"] for result in results)
    assert text.startswith("Hello")
    assert continued.startswith("Well")
    column, errors = results_to_arrow(results, pa.list_(pa.struct([("generated_text", pa.string())])))
    assert column.null_count == 0 and errors == [None] * 3


def test_texts_in_parts_are_one_text_and_other_parts_are_refused(model: Model) -> None:
    spec = rp.pipeline(TASK, model("llama-chat"), **GREEDY)
    parts = [{"type": "text", "text": "Hello"}, {"type": "text", "text": "you"}]
    chats = [[{"role": "user", "content": content}] for content in (parts, "Hello\nyou", [*parts, {"type": "image"}])]
    in_parts, plain, refused = spec.run(chats)
    assert in_parts == plain
    assert refused.type == "InvalidInput" and "got image" in refused.message


def test_a_chat_without_template_fails_alone(model: Model) -> None:
    text, chat = rp.pipeline(TASK, model("gpt2-lm-no-pad"), **GREEDY).run(["Hello", CHAT])
    assert text[0]["generated_text"].startswith("Hello")
    assert "no chat template" in chat.message


@pytest.mark.parametrize(
    ("name", "batched"), [("llama-chat", True), ("gpt2-lm", True), ("bart-lm", False), ("gpt2-lm-no-pad", False)]
)
def test_prompts_of_unequal_length_share_a_forward_where_padding_changes_nothing(
    model: Model, name: str, batched: bool
) -> None:
    spec = rp.pipeline(TASK, model(name), **GREEDY)
    spec.run(["one", "and another one", "x y z"], on_error="raise")
    runner = spec._runner()
    pads = runner.steps.pipe._pads
    assert (pads is True and runner.counters.num_forwards == 1) == batched
    others = runner.with_parameters(validate_parameters(spec.task, {"max_new_tokens": 2}))
    assert others.steps.pipe._pads is pads, "it is the model's, and not learned again for other parameters"


def test_a_repetition_penalty_sees_no_padding_and_lets_prompts_share_a_forward(model: Model, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model("llama-chat"), folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = ["one", "and another one", "x y z", "Hello", "The quick brown fox"]
    arguments = {"do_sample": False, "max_new_tokens": 6, "repetition_penalty": 5.0, "device": "cpu"}
    plain = rp.pipeline(TASK, str(folder), return_tensors=True, **arguments)
    first = plain.run(texts[:1])[0][0]["generated_token_ids"][len(tokenizer(texts[0])["input_ids"])]
    # With what the shortest prompt goes on with as padding, a penalty that sees padding changes its text.
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(int(first))
    tokenizer.save_pretrained(folder)
    spec = rp.pipeline(TASK, str(folder), **arguments)
    singly = [spec.run([text], on_error="raise")[0] for text in texts]
    counters = spec._runner().counters
    num_forwards = counters.num_forwards
    assert spec.run(texts) == singly
    assert counters.num_forwards == num_forwards + 1


def test_sampling_is_the_default_and_makes_rows_run_one_by_one(model: Model) -> None:
    sampled = rp.pipeline(TASK, model("llama-chat"), max_new_tokens=2, device="cpu")
    sampled.run(["a", "b"], on_error="raise")
    assert sampled._runner().steps.is_random
    assert sampled._runner().counters.num_forwards == 2
    greedy = rp.pipeline(TASK, model("llama-chat"), **GREEDY)
    assert not greedy._runner().steps.is_random


def test_prompt_without_room_for_new_tokens_fails_alone(model: Model) -> None:
    spec = rp.pipeline(TASK, model("gpt2-lm"), do_sample=False, max_new_tokens=40, device="cpu")
    short, long = spec.run(["Hello", "The quick brown fox " * 6])
    assert short[0]["generated_text"].startswith("Hello")
    assert long.type == "RowTooLarge" and "max_new_tokens" in long.message
    reference = transformers.pipeline(TASK, model("gpt2-lm"), device="cpu")
    with pytest.raises(IndexError):
        reference("The quick brown fox " * 6, do_sample=False, max_new_tokens=40)


def test_max_length_reaches_the_tokenizer_where_transformers_forgets_it(model: Model) -> None:
    arguments: dict[str, Any] = {"truncation": True, "max_length": 12, "max_new_tokens": 3, "do_sample": False}
    prompt = "The quick brown fox " * 5
    at_call = transformers.pipeline(TASK, model("llama-chat"), device="cpu")(prompt, return_tensors=True, **arguments)
    at_init = transformers.pipeline(TASK, model("llama-chat"), device="cpu", **arguments)(prompt, return_tensors=True)
    (ours,) = rp.pipeline(TASK, model("llama-chat"), device="cpu", return_tensors=True, **arguments).run([prompt])
    assert len(at_call[0]["generated_token_ids"]) == 15
    assert len(at_init[0]["generated_token_ids"]) > 15
    assert ours == at_call


def test_tools_and_documents_reach_the_chat_template(model: Model) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(model("llama-chat"))
    tokenizer.chat_template = "{{ documents[0]['title'] }}{{ tools[0]['name'] }}"
    tools = [{"name": "look_up", "parameters": {}}]
    documents = [{"title": "Notes", "text": "…"}]
    spec = rp.pipeline(TASK, model("llama-chat"), tokenizer=tokenizer, tools=tools, documents=documents, **GREEDY)
    chunk = next(spec._runner().steps.preprocess(CHAT))
    assert tokenizer.decode(chunk["input_ids"][0]) == "Noteslook_up"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"return_tensors": True, "return_full_text": True}, "return_full_text: cannot be set"),
        ({"return_tensors": True, "return_text": True}, "return_tensors: cannot be set beside return_text"),
        ({"handle_long_generation": "cut"}, "handle_long_generation: expected 'hole'"),
        ({"max_new_token": 3}, 'Did you mean "max_new_tokens"'),
    ],
)
def test_parameters_that_cannot_work_are_refused(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(rp.ConfigError, match=message):
        rp.pipeline(TASK, "org/model", **parameters)


def test_stop_strings_and_stop_sequence_are_one_thing(model: Model) -> None:
    reference = transformers.pipeline(TASK, model("llama-chat"), device="cpu")
    expected = reference("Hello", do_sample=False, max_new_tokens=20, stop_sequence=["e", "a"])
    for stops in ({"stop_strings": ["a", "e"]}, {"stop_sequence": "a", "stop_strings": "e"}):
        spec = rp.pipeline(TASK, model("llama-chat"), device="cpu", do_sample=False, max_new_tokens=20, **stops)
        assert spec.run(["Hello"], on_error="raise") == [expected]


def test_token_healing_has_the_tokenizer_that_it_needs(model: Model) -> None:
    texts = ["hello", "The quick bro", "x"]
    results = rp.pipeline(TASK, model("gpt2-lm"), token_healing=True, **GREEDY).run(texts, on_error="raise")
    pipe = transformers.pipeline(TASK, model("gpt2-lm"), device="cpu")
    arguments = {"do_sample": False, "max_new_tokens": 5, "token_healing": True, "tokenizer": pipe.tokenizer}
    assert results == [pipe(text, **arguments) for text in texts]
