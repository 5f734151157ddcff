"""visual-question-answering: what is put right about transformers 4.57.6, and what is refused."""

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
from ray_pipelines.engine.pipelines.visual_question_answering import VisualQuestionAnsweringPipeline
from tests.cases.dropped_vision import golden, recorded_items, recorded_results
from tests.closeness import assert_close

Model = Callable[[str], str]


def spec_of(model: Model, name: str, **arguments: Any) -> rp.PipelineSpec:
    return rp.pipeline("vqa", model=model(name), device="cpu", **arguments)


def load(folder: str) -> VisualQuestionAnsweringPipeline:
    pipelines.register()
    pipe = transformers.pipeline("visual-question-answering", model=folder, device="cpu")
    assert isinstance(pipe, VisualQuestionAnsweringPipeline)
    return pipe


def test_transformers_knows_the_task_its_alias_and_its_default_model_again() -> None:
    pipelines.register()
    assert PIPELINE_REGISTRY.check_task("vqa")[0] == "visual-question-answering"
    assert default_model("visual-question-answering") == ("dandelin/vilt-b32-finetuned-vqa", "d0a1f6a")


def test_blip_answers_differ_with_the_padding_of_a_batch_but_ours_do_not(model: Model) -> None:
    items = recorded_items("blip-vqa")
    pipe = load(model("blip-vqa"))
    questions = pipe.tokenizer([item["question"] for item in items], padding=True, return_tensors="pt")
    images = pipe.image_processor([item["image"].convert("RGB") for item in items], return_tensors="pt")
    with torch.no_grad():
        padded = pipe.model.generate(**questions, **images, generation_config=pipe.model.generation_config)
    alone = [result[0]["answer"] for result in recorded_results("blip-vqa")]
    assert pipe.tokenizer.batch_decode(padded, skip_special_tokens=True) != alone
    results = spec_of(model, "blip-vqa", batch={"max_size": 8}).run(items)
    assert [result[0]["answer"] for result in results] == alone


def test_blip2_sees_its_image_and_does_not_repeat_the_question(model: Model) -> None:
    recorded = [result[0]["answer"] for result in golden()["cases"]["blip2-vqa"]["results"]]
    assert recorded[0] == recorded[1] and recorded[0].startswith("what is it?")
    items = recorded_items("blip2-vqa")
    answers = [result[0]["answer"] for result in spec_of(model, "blip2-vqa").run(items)]
    assert answers[0] != answers[1]
    assert answers == [_blip2_answer(model("blip2-vqa"), item) for item in items]


def _blip2_answer(folder: str, item: dict[str, Any]) -> str:
    """What the model writes for inputs of transformers' own processor of BLIP-2."""
    blip2 = transformers.Blip2ForConditionalGeneration.from_pretrained(folder)
    processor = transformers.Blip2Processor(
        transformers.AutoImageProcessor.from_pretrained(folder),
        transformers.AutoTokenizer.from_pretrained(folder),
        num_query_tokens=blip2.config.num_query_tokens,
    )
    inputs = processor(images=item["image"].convert("RGB"), text=item["question"], return_tensors="pt")
    ids = blip2.generate(**inputs, generation_config=blip2.generation_config)
    return processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def test_generation_parameters_reach_the_model_that_writes(model: Model) -> None:
    items = recorded_items("blip-vqa")[:3]
    spec = spec_of(model, "blip-vqa", max_new_tokens=2, num_beams=3, num_return_sequences=2)
    results = spec.run(items)
    assert [len(result) for result in results] == [2, 2, 2]
    assert all(len(answer["answer"].split()) <= 2 for result in results for answer in result)
    best = spec_of(model, "blip-vqa", max_new_tokens=2, generate_kwargs={"num_beams": 3}).run(items)
    assert [result[:1] for result in results] == best


def test_rows_run_alone_where_answers_are_sampled(model: Model) -> None:
    sampling: dict[str, Any] = {"do_sample": True, "generate_kwargs": {"top_k": 20}, "temperature": 3.0}
    spec = spec_of(model, "blip-vqa", **sampling)
    assert spec.task.is_random(load(model("blip-vqa")), spec.task.parameters(**sampling))
    assert spec.run(recorded_items("blip-vqa")) != recorded_results("blip-vqa")


def test_generation_parameters_are_refused_where_the_model_scores_a_list(model: Model) -> None:
    with pytest.raises(rp.ModelLoadError, match=r"num_beams: ViltForQuestionAnswering chooses from a list of answers"):
        spec_of(model, "vilt-vqa", num_beams=3).run(recorded_items("vilt")[:1])


def test_a_number_of_answers_warns_where_the_model_writes_them(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        spec_of(model, "blip-vqa", top_k=2).run(recorded_items("blip-vqa")[:1])
    assert "top_k is ignored" in caplog.text


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"topk": 2}, "parameters.topk: unknown name"),
        ({"top_k": 0}, "parameters.top_k: "),
        ({"truncation": "sometimes"}, "parameters.truncation"),
        ({"num_beams": 2, "generate_kwargs": {"num_beams": 3}}, "num_beams: is set by itself too"),
        ({"num_beam_groups": 2}, "num_beam_groups: .*group beam search"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_loads(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(rp.ConfigError, match=message):
        rp.pipeline("vqa", model="org/nothing", **parameters)


def test_rows_that_cannot_be_processed_fail_alone_with_their_reason(model: Model) -> None:
    good = recorded_items("vilt")[0]
    strip = {"image": Image.new("RGB", (400, 2)), "question": "What?"}
    rows = [good, {"image": good["image"]}, {"image": good["image"], "question": 3}, strip, {"question": "What?"}, good]
    results = spec_of(model, "vilt-vqa").run(rows)
    messages = [result.message if isinstance(result, rp.RowError) else None for result in results]
    assert messages[0] is None and messages[5] is None
    assert messages[1] == "question: is required by visual-question-answering; the row does not have it."
    assert messages[2] == "question: expected a string; got int."
    assert messages[3] and messages[3].startswith("image: ViltImageProcessor cannot process an image of 400 x 2 pixels")
    assert isinstance(results[4], rp.RowError)


def test_long_questions_are_dead_letters_unless_truncated(model: Model) -> None:
    item = {**recorded_items("vilt")[0], "question": "what " * 200}
    (result,) = spec_of(model, "vilt-vqa").run([item])
    assert isinstance(result, rp.RowError) and result.type == "RowTooLarge"
    (result,) = spec_of(model, "vilt-vqa", truncation=True).run([item])
    assert len(result) == 5


def test_as_a_pipeline_it_asks_every_question_about_every_image(model: Model) -> None:
    pipe = load(model("vilt-vqa"))
    images = [item["image"] for item in recorded_items("vilt")[:2]]
    questions = ["What is it?", "Where?"]
    results = pipe(image=images, question=questions, top_k=1)
    pairs = [(image, question) for question in questions for image in images]
    assert_close(results, [pipe({"image": image, "question": question}, top_k=1) for image, question in pairs])
    assert_close(pipe(images[0], "Where?", top_k=1), results[2])
    assert_close(pipe(image=images[0], question=questions, top_k=1), [results[0], results[2]])


def test_rows_run_alone_where_the_model_chooses_patches_at_random(model: Model) -> None:
    pipe = load(model("vilt-vqa"))
    task = spec_of(model, "vilt-vqa").task
    assert not task.is_random(pipe, task.parameters())
    pipe.model.config.max_image_length = 5
    assert task.is_random(pipe, task.parameters())
