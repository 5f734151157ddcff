"""image-to-text: the captioning task, its prompts, and what is put right about transformers 4.57.6."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from transformers.pipelines import PIPELINE_REGISTRY

import ray_pipelines as rp
from ray_pipelines.engine import pipelines
from ray_pipelines.engine.hub import default_model
from ray_pipelines.engine.pipelines.image_to_text import ImageToTextPipeline
from tests.cases.dropped_vision import recorded_items, recorded_results

Model = Callable[[str], str]
PROMPTS = ["a photo of", None, "the", "a short text about what we see and", "a", "a photo of"]


def spec_of(model: Model, name: str, **arguments: Any) -> rp.PipelineSpec:
    return rp.pipeline("image-to-text", model=model(name), device="cpu", **arguments)


def load(folder: str) -> ImageToTextPipeline:
    pipe = transformers.pipeline("image-to-text", model=folder, device="cpu", pipeline_class=ImageToTextPipeline)
    assert isinstance(pipe, ImageToTextPipeline)
    return pipe


def test_the_registry_knows_the_task_and_its_default_model_again() -> None:
    pipelines.register()
    assert PIPELINE_REGISTRY.check_task("image-to-text")[1]["impl"] is ImageToTextPipeline
    assert default_model("image-to-text") == ("ydshieh/vit-gpt2-coco-en", "5bebf1e")


@pytest.mark.parametrize("name", ["blip-captions", "git-captions"])
def test_rows_may_have_prompts_of_their_own(model: Model, name: str) -> None:
    images = recorded_items("blip-captions")
    rows = [{"image": image, "prompt": prompt} for image, prompt in zip(images, PROMPTS, strict=True)]
    results = spec_of(model, name, batch={"max_size": 8}, max_new_tokens=6).run(rows)
    pairs = zip(images, PROMPTS, strict=True)
    assert results == [spec_of(model, name, max_new_tokens=6, prompt=p).run([image])[0] for image, p in pairs]
    assert results[3][0]["generated_text"].startswith("a short text about")


def test_captions_after_padded_prompts_differ_but_ours_do_not(model: Model) -> None:
    images = recorded_items("blip-captions")[:2]
    prompts = ["the", "a short text about what we see and"]
    pipe = load(model("blip-captions"))
    tokens = pipe.tokenizer(prompts, padding=True, return_tensors="pt")
    pixels = pipe.image_processor([image.convert("RGB") for image in images], return_tensors="pt")
    with torch.no_grad():
        padded = pipe.model.generate(**tokens, **pixels, max_new_tokens=6)
    rows = [{"image": image, "prompt": prompt} for image, prompt in zip(images, prompts, strict=True)]
    results = spec_of(model, "blip-captions", max_new_tokens=6).run(rows)
    assert results[0] == pipe(images[0], prompt="the", max_new_tokens=6)
    assert results[0][0]["generated_text"] != pipe.tokenizer.decode(padded[0], skip_special_tokens=True)


def test_blip2_sees_its_image_beside_a_prompt(model: Model) -> None:
    images = recorded_items("blip-captions")[:2]
    captions = spec_of(model, "blip2-vqa", prompt="a photo of").run(images)
    assert captions[0] != captions[1]


def test_the_length_that_the_user_sets_is_kept(model: Model) -> None:
    pipe = load(model("vit-gpt2"))
    pipe.model.generation_config.max_length = None
    image = recorded_items("vit-gpt2")[0]
    inputs = pipe.preprocess(image)
    assert pipe.forward(inputs, max_length=4)["generated_ids"].shape == (1, 1, 4)
    assert pipe.forward(inputs, max_new_tokens=6)["generated_ids"].shape == (1, 1, 7)
    assert pipe.forward(inputs, generation_config=transformers.GenerationConfig(max_length=5))[
        "generated_ids"
    ].shape == (1, 1, 5)


def test_text_stops_after_a_string(model: Model) -> None:
    items = recorded_items("vit-gpt2")
    whole = [result[0]["generated_text"] for result in recorded_results("vit-gpt2")]
    stopped = [result[0]["generated_text"] for result in spec_of(model, "vit-gpt2", stop_strings=" quic").run(items)]
    assert stopped[4] == " quic" and whole[4].startswith(" quic quic")
    assert stopped[0] == whole[0]


@pytest.mark.parametrize("sampling", [{"do_sample": True}, {"generate_kwargs": {"do_sample": True}}], ids=str)
def test_rows_run_alone_where_captions_are_sampled(model: Model, sampling: dict[str, Any]) -> None:
    pipe = load(model("vit-gpt2"))
    spec = spec_of(model, "vit-gpt2", **sampling)
    assert spec.task.is_random(pipe, spec.task.parameters(**sampling))
    assert not spec.task.is_random(pipe, spec.task.parameters())
    items = recorded_items("vit-gpt2")
    assert spec.run(items) != recorded_results("vit-gpt2")


def test_a_prompt_is_refused_at_once_where_the_model_takes_none(model: Model) -> None:
    with pytest.raises(rp.ModelLoadError, match="prompt: a VisionEncoderDecoderModel takes none"):
        spec_of(model, "vit-gpt2", prompt="a photo of").run(recorded_items("vit-gpt2")[:1])


def test_a_row_with_a_wrong_prompt_fails_alone(model: Model) -> None:
    images = recorded_items("vit-gpt2")[:3]
    results = spec_of(model, "vit-gpt2").run([images[0], {"image": images[1], "prompt": "a"}, images[2]])
    assert isinstance(results[1], rp.RowError) and "takes none" in results[1].message
    assert [results[0], results[2]] == [recorded_results("vit-gpt2")[0], recorded_results("vit-gpt2")[2]]
    (result,) = spec_of(model, "blip-captions").run([{"image": images[0], "prompt": ["a"]}])
    assert isinstance(result, rp.RowError) and result.message == "prompt: expected a string; got list."


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"promt": "a"}, "parameters.promt: unknown name.*prompt"),
        ({"max_new_tokens": 0}, "parameters.max_new_tokens"),
        ({"max_new_tokens": 5, "generate_kwargs": {"max_new_tokens": 6}}, "max_new_tokens: is set by itself too"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_loads(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(rp.ConfigError, match=message):
        rp.pipeline("image-to-text", model="org/nothing", **parameters)


def test_as_a_pipeline_it_takes_images_by_their_old_name_and_arguments_of_a_call(model: Model) -> None:
    pipe = load(model("vit-gpt2"))
    images = recorded_items("vit-gpt2")[:2]
    assert pipe(images=images) == recorded_results("vit-gpt2")[:2]
    assert pipe(images, max_new_tokens=3) == recorded_results("vit-gpt2-short")[:2]
    assert pipe(images, generate_kwargs={"max_new_tokens": 3}) == recorded_results("vit-gpt2-short")[:2]
    with pytest.raises(ValueError, match="max_length: is set twice"):
        pipe(images, max_length=3, generate_kwargs={"max_length": 3})
    with pytest.raises(ValueError, match="inputs: expected an image"):
        pipe()


@pytest.mark.parametrize("name", ["blip-captions", "vit-gpt2", "blip-vqa"])
def test_more_new_tokens_than_the_decoder_has_positions_are_refused(model: Model, name: str) -> None:
    task = "visual-question-answering" if name == "blip-vqa" else "image-to-text"
    item = Image.new("RGB", (30, 30), "red")
    items = [{"image": item, "question": "What is this?"}] if name == "blip-vqa" else [item]
    (error,) = rp.pipeline(task, model=model(name), device="cpu", max_new_tokens=5000).run(items)
    assert isinstance(error, rp.RowError)
    assert (error.stage, error.type) == ("forward", "RowTooLarge")
    assert "Set a smaller max_new_tokens" in error.message
