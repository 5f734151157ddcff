"""image-text-to-text and any-to-any: images in a column of their own, chats out of Arrow, what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers

import ray_pipelines as rp
from ray_pipelines.config import MediaLimits
from ray_pipelines.engine.pipelines._prompts import of_rows
from ray_pipelines.media.chat import load_chat
from ray_pipelines.tasks import get, validate_parameters
from tests.cases.media import image, png, sound
from tests.cases.multimodal import SHORT, _message
from tests.cases.vision import video

Model = Callable[[str], str]
TASKS = ("image-text-to-text", "any-to-any")

each_task = pytest.mark.parametrize("task", TASKS)


@each_task
def test_images_of_a_column_take_their_places_in_the_chat(model: Model, task: str) -> None:
    spec = rp.pipeline(task, model("llava"), device="cpu", **SHORT)
    place = {"type": "image"}
    chat = [{"role": "user", "content": [place, {"type": "text", "text": "What is this?"}, place]}]
    inside = [
        {
            "role": "user",
            "content": [
                {"type": "image", "image": image()},
                {"type": "text", "text": "What is this?"},
                {"type": "image", "path": png(image(seed=1))},
            ],
        }
    ]
    one, other = spec.run([{"text": chat, "images": [image(), image(seed=1)]}, inside], on_error="raise")
    assert one == other
    assert place == {"type": "image"}


@each_task
def test_a_chat_out_of_arrow_gives_what_a_list_of_dicts_gives(model: Model, task: str) -> None:
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    part = pa.struct([("type", pa.string()), ("text", pa.string()), ("image", picture)])
    message = pa.struct([("role", pa.string()), ("content", pa.list_(part))])
    encoded = _message("user", "What is this?", {"bytes": png(image()), "path": None})
    (chat,) = pa.array([[encoded]], pa.list_(message)).to_pylist()
    spec = rp.pipeline(task, model("llava"), device="cpu", **SHORT)
    arrow, plain = spec.run([chat, [_message("user", "What is this?", image())]], on_error="raise")
    assert arrow == plain


def test_a_list_of_rows_works_where_transformers_raises(model: Model) -> None:
    rows = [{"images": image(), "text": "<image>a"}, {"images": image(), "text": "<image>a"}]
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        transformers.pipeline("image-text-to-text", model("llava"), device="cpu")(rows, **SHORT)
    one, other = rp.pipeline("image-text-to-text", model("llava"), device="cpu", **SHORT).run(rows, on_error="raise")
    assert one == other


def test_recordings_in_a_chat_are_decoded_at_the_models_rate() -> None:
    recording = {"array": sound(8000), "sampling_rate": 8000}
    chat = [{"role": "user", "content": [{"type": "audio", "audio": recording}, {"type": "text", "text": "Who?"}]}]
    ((message,),) = [load_chat(chat, MediaLimits(), 16000)]
    samples = message["content"][0]["audio"]
    assert samples.dtype == np.float32 and samples.shape == (16000,)
    assert chat[0]["content"][0]["audio"] is recording


@pytest.mark.parametrize(
    ("task", "name", "kinds"),
    [("image-text-to-text", "llava", "audio video"), ("any-to-any", "qwen2-vl", "audio"),
     ("any-to-any", "qwen2-audio", "image video")],
)  # fmt: skip
def test_media_that_the_model_does_not_take_are_refused(model: Model, task: str, name: str, kinds: str) -> None:
    media = {"image": image(), "video": video(4), "audio": sound(9000)}
    fields = {"image": "images", "video": "videos", "audio": "audio"}
    spec = rp.pipeline(task, model(name), device="cpu", **SHORT)
    for kind in kinds.split():
        chat = [{"role": "user", "content": [{"type": kind, kind: media[kind]}, {"type": "text", "text": "What?"}]}]
        beside = [{"text": "What?", fields[kind]: media[kind]}] if task == "any-to-any" else []
        for result in spec.run([chat, *beside]):
            assert isinstance(result, rp.RowError)
            assert (result.type, result.message.partition(",")[0]) == ("InvalidInput", f"{kind}: expected none")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "<image>", "images": b"no"}, "image: cannot be decoded"),
        ({"text": [_message("user", "a")], "images": image()}, "which are 0; got 1"),
        ({"text": [{"role": "user", "content": [{"type": "image"}]}]}, "which are 1; got 0"),
        ({"text": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}]}, "video: cannot open 'a.mp4'"),
        ({"text": [{"role": "user", "content": [{"type": "text"}]}]}, "expected a text in each part"),
        ({"text": [{"role": "user", "content": [{"type": "audio"}]}]}, "audio: expected one for each part of the chat"),
        ({"text": [{"role": "user", "content": None}]}, "content: expected a text; got null"),
    ],
)
def test_a_row_that_cannot_be_read_fails_alone(model: Model, row: Any, message: str) -> None:
    good, bad = rp.pipeline("image-text-to-text", model("llava"), device="cpu", **SHORT).run(["a text", row])
    assert good[0]["generated_text"]
    assert isinstance(bad, rp.RowError)
    with pytest.raises(rp.RowError, match=message):
        raise bad


@pytest.mark.parametrize(
    ("task", "parameters", "message"),
    [
        ("any-to-any", {"generation_mode": "audio"}, "generation_mode: expected 'text' or 'image'; got 'audio'"),
        ("image-text-to-text", {"top_k": 2, "generate_kwargs": {"top_k": 3}}, "top_k: is set by itself too"),
        ("image-text-to-text", {"return_tensors": True, "return_full_text": False}, "return_full_text: cannot be set"),
    ],
)
def test_parameters_that_cannot_work_are_refused(task: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(rp.ConfigError, match=message):
        rp.pipeline(task, "org/model", **parameters)


@each_task
@pytest.mark.parametrize(
    "parameters", [{"num_beams": 4}, {"repetition_penalty": 5.0}, {"num_beams": 2, "num_return_sequences": 2}]
)
def test_arguments_of_generate_reach_it_when_they_come_later(
    task: str, parameters: dict[str, Any], model: Model
) -> None:
    item = {"text": "<image>What is this?", "images": image()}
    loaded = rp.pipeline(task, model("llava"), device="cpu")._runner()
    later = loaded.with_parameters(
        validate_parameters(get(task), {"max_new_tokens": 8, "do_sample": False, **parameters})
    )
    (result,) = later.run([later.steps.item_of_input(item)])
    spec = rp.pipeline(task, model("llava"), device="cpu", max_new_tokens=8, do_sample=False, **parameters)
    assert [result] == spec.run([item], on_error="raise")
    assert result != rp.pipeline(task, model("llava"), device="cpu", max_new_tokens=8, do_sample=False).run([item])[0]


@each_task
def test_rows_leave_nothing_in_the_arguments_of_the_processor(model: Model, task: str) -> None:
    chat = [_message("user", "What is this?", image())]
    row = {"text": "<image>What?", "images": image()}
    spec = rp.pipeline(task, model("llava"), device="cpu", processor_kwargs={"do_convert_rgb": True}, **SHORT)
    assert spec.run([chat, row, chat], on_error="raise") == [spec.run([item])[0] for item in (chat, row, chat)]


@each_task
def test_arguments_of_generate_are_the_same_in_a_dictionary(model: Model, task: str) -> None:
    arguments = {"max_new_tokens": 4, "num_beams": 2, "num_return_sequences": 2, "stop_strings": ["zz"]}
    item = {"text": "<image>What is this?", "images": image()}
    nested = rp.pipeline(task, model("llava"), device="cpu", generate_kwargs={**arguments, "do_sample": False})
    alone = rp.pipeline(task, model("llava"), device="cpu", do_sample=False, **arguments)
    assert nested.run([item], on_error="raise") == alone.run([item], on_error="raise")
    assert nested._runner().steps.extra_cost == 4
    assert not nested._runner().steps.is_random


def test_media_that_look_like_tokens_stay_whole() -> None:
    tokens, media = torch.arange(8).view(2, 4), torch.arange(8).view(2, 4, 1)
    batch = {"input_ids": tokens, "pixel_values": media, "prompt_length": torch.tensor([2, 4])}
    selected = of_rows({**batch, "num_media": [{"pixel_values": 1}, {"pixel_values": 1}]}, [0], 2)
    assert selected["input_ids"].tolist() == [[2, 3]]
    assert selected["pixel_values"].tolist() == [[[0], [1], [2], [3]]]


def _llava_rows() -> list[Any]:
    """A row that ends before all others with a certain token first, prompts and numbers of images of all kinds."""
    texts = ("<image>What?", "<image>What is this?", "<image><image>Which of these two is larger?", "<image>")
    rows = [
        {"text": text, "images": [image(seed=10 * number + seed) for number in range(text.count("<image>"))]}
        for seed, text in enumerate(texts * 2)
    ]
    return [*rows, {"text": "none"}, {"text": "none at all"}]


def _qwen_rows() -> list[Any]:
    """As above, with pictures of all sizes, each of which makes another number of tokens."""
    place = "<|vision_start|><|image_pad|><|vision_end|>"
    texts = (f"{place}What?", f"{place}What is this?", f"{place}, {place} or nothing", place)
    rows = [
        {
            "text": text,
            "images": [image(size=(24 + 8 * seed, 40 - 4 * number)) for number in range(text.count(place))],
        }
        for seed, text in enumerate(texts * 2)
    ]
    return [*rows, {"text": "none"}, {"text": "none at all"}]


@each_task
@pytest.mark.parametrize("extra", [{}, {"num_beams": 2, "num_return_sequences": 2}])
@pytest.mark.parametrize(("name", "make_rows"), [("llava", _llava_rows), ("qwen2-vl", _qwen_rows)])
def test_rows_share_forwards_and_end_where_each_ends_alone(
    name: str, make_rows: Callable[[], list[Any]], extra: dict[str, Any], task: str, model: Model
) -> None:
    rows = make_rows()
    parameters = {"max_new_tokens": 8, "do_sample": False, "return_tensors": True, **extra}

    def spec_of(**more: Any) -> rp.PipelineSpec:
        return rp.pipeline(task, model=model(name), device="cpu", **parameters, **more)

    def tokens(results: list[Any]) -> list[list[list[int]]]:
        return [[list(record["generated_token_ids"]) for record in records] for records in results]

    ((some, *_),) = tokens(spec_of().run(rows[:1], on_error="raise"))
    spec = spec_of(eos_token_id=some[-3])
    singly = [tokens(spec.run([row], on_error="raise"))[0] for row in rows]
    assert len({len(one) for one in itertools.chain(*singly)}) > 1, "not all end at the same length"
    runner = spec._runner()
    num_forwards = runner.counters.num_forwards
    assert tokens(spec.run(rows)) == singly
    assert runner.steps.pipe._pads
    # Rows with images, whose lengths jump, and rows without: they have not the same model inputs.
    assert runner.counters.num_forwards - num_forwards <= 5


@each_task
@pytest.mark.parametrize(
    ("rule", "num_forwards"), [({"repetition_penalty": 1.3}, 1), ({"no_repeat_ngram_size": 2}, 2)], ids=str
)
def test_rules_about_tokens_do_not_see_padding(
    rule: dict[str, Any], num_forwards: int, task: str, model: Model
) -> None:
    rows = [{"text": text, "images": [image(seed=seed)]} for seed in range(3) for text in ("<image>a", "<image>a b c")]
    spec = rp.pipeline(task, model("llava"), device="cpu", max_new_tokens=8, do_sample=False, **rule)
    singly = [spec.run([row], on_error="raise")[0] for row in rows]
    counters = spec._runner().counters
    before = counters.num_forwards
    assert spec.run(rows) == singly
    assert counters.num_forwards - before == num_forwards
