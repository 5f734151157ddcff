from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import ray_pipelines as rp
from ray_pipelines.serve.stopping import Abandoned, abandon_when
from tests.cases import CASES, Case
from tests.closeness import assert_close

Model = Callable[[str], str]
DO_NOT_GENERATE = ("wav2vec2", "vits", "tapas", "layoutlm", "vilt")
GENERATING = ("text-generation", "text2text-generation", "summarization", "translation", "table-question-answering",
              "automatic-speech-recognition", "image-to-text", "image-text-to-text", "any-to-any", "text-to-audio",
              "visual-question-answering", "document-question-answering")  # fmt: skip


OF_EACH_KIND = {
    (case.task, case.model): case
    for case in CASES
    if case.task in GENERATING and not case.model.startswith(DO_NOT_GENERATE)
}


def test_a_model_with_a_loop_of_its_own_is_abandoned_too(model: Model) -> None:
    folder = model("speecht5")
    parameters = {"vocoder": f"{folder}/vocoder", "forward_params": {"maxlenratio": 2.0, "threshold": 3.0}}
    runner = rp.pipeline("text-to-audio", model=folder, device="cpu", **parameters)._runner()
    item = runner.steps.item_of_input({"text": "hello", "speaker_embeddings": [0.5] * 4})
    num_steps, last = 0, 10**9

    def ask() -> bool:
        nonlocal num_steps
        num_steps += 1
        return num_steps > last

    abandon_when(ask, runner.steps.pipe.model)
    list(runner.run([item]))
    num_steps, last = 0, num_steps // 2
    with pytest.raises(Abandoned):
        list(runner.run([item]))


@pytest.mark.parametrize("case", OF_EACH_KIND.values(), ids=lambda case: case.name)
def test_whatever_generates_does_so_until_it_is_abandoned(case: Case, model: Model) -> None:
    runner = rp.pipeline(case.task, model=model(case.model), device="cpu", **case.parameters)._runner()

    def results() -> list[Any]:
        return list(runner.run(runner.steps.item_of_input(item) for item in case.items()))

    expected, num_steps, is_over = results(), 0, False

    def ask() -> bool:
        nonlocal num_steps
        num_steps += 1
        return is_over

    abandon_when(ask, runner.steps.pipe.model)
    assert_close(results(), expected, case.tolerance)
    assert num_steps
    num_steps, is_over = 0, True
    with pytest.raises(Abandoned):
        results()
    assert num_steps == 1
