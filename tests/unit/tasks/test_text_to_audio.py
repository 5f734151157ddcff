"""Speech synthesis: clips at their own length, voices of rows, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers

import ray_pipelines as rp
from ray_pipelines import tasks
from ray_pipelines.arrow import results_to_arrow
from ray_pipelines.engine.transfer import pack, unpack
from ray_pipelines.media.audio import encode_wav
from tests.closeness import assert_close

TEXTS = ["hello", "the quick brown fox jumps", "a"]
Model = Callable[[str], str]


def spec_of(model: str, **parameters: Any) -> rp.PipelineSpec:
    return rp.pipeline("text-to-audio", model=model, device="cpu", **parameters)


def test_every_clip_has_its_own_length_where_batches_of_transformers_add_tails(model: Model) -> None:
    pipe = transformers.pipeline("text-to-audio", model=model("vits"), device="cpu")
    singly = [len(pipe(text)["audio"]) for text in TEXTS]
    assert [len(clip["audio"]) for clip in pipe(TEXTS, batch_size=3)] != singly
    results = spec_of(model("vits")).run(TEXTS)
    assert [len(result["audio"]) for result in results] == singly
    assert len(set(singly)) == 3
    for result in results:
        assert result["audio"].dtype == np.float32
        assert (result["sampling_rate"], result["num_channels"]) == (16_000, 1)


def test_a_clip_becomes_a_wav_file(model: Model) -> None:
    (clip,) = spec_of(model("vits")).run(TEXTS[:1])
    samples, rate = soundfile.read(io.BytesIO(encode_wav(clip["audio"], clip["sampling_rate"], "FLOAT")))
    assert rate == 16_000
    np.testing.assert_array_equal(samples.astype(np.float32), clip["audio"])


def test_text_to_speech_is_the_same_task() -> None:
    assert tasks.get("text-to-speech") is tasks.get("text-to-audio")


def test_models_that_draw_noise_are_random_and_follow_the_seed(model: Model) -> None:
    spec = spec_of(model("vits-noise"))
    assert spec._runner().steps.is_random
    clips = []
    for _ in range(2):
        torch.manual_seed(0)
        clips.append(spec.run(["hello"])[0]["audio"])
    np.testing.assert_array_equal(*clips)


def test_a_row_has_its_own_voice_over_that_of_the_parameter(model: Model) -> None:
    spec = spec_of(model("vits-voices"), speaker_id=0)
    rows = [{"text": "hello"}, {"text": "hello", "speaker_id": 1}, {"text": "hello", "speaker_id": 0}]
    default, other, same = spec.run(rows)
    np.testing.assert_array_equal(default["audio"], same["audio"])
    assert other["audio"].shape != default["audio"].shape or not np.allclose(other["audio"], default["audio"])


def test_spectrograms_become_sound_by_the_vocoder_that_is_named(model: Model) -> None:
    folder = model("speecht5")
    voices = [np.linspace(-1, 1, 4), np.linspace(1, -1, 4).tolist()]
    spec = spec_of(folder, vocoder=f"{folder}/vocoder", forward_params={"maxlenratio": 2.0, "threshold": 3.0})
    vocoder = transformers.SpeechT5HifiGan.from_pretrained(f"{folder}/vocoder")
    pipe = transformers.pipeline("text-to-audio", model=folder, vocoder=vocoder, device="cpu")
    clips = []
    for voice in voices:
        torch.manual_seed(0)
        (clip,) = spec.run([{"text": "hello you", "speaker_embeddings": voice}])
        torch.manual_seed(0)
        own = torch.tensor(voice, dtype=torch.float32)[None]
        expected = pipe("hello you", forward_params={"maxlenratio": 2.0, "threshold": 3.0, "speaker_embeddings": own})
        assert clip["audio"].shape == expected["audio"].shape
        assert clip["sampling_rate"] == expected["sampling_rate"] == 8000
        clips.append(clip["audio"])
    assert clips[0].shape != clips[1].shape or not np.allclose(*clips)
    (error,) = spec.run(["a voice is missing"])
    assert isinstance(error, rp.RowError) and "speaker_embeddings" in error.message
    (error,) = spec.run([{"text": "hello", "speaker_embeddings": [1.0, 2.0]}])
    assert isinstance(error, rp.RowError) and "expected 4 numbers for this model; got 2" in error.message


def test_inputs_and_clips_survive_the_way_between_stages(model: Model) -> None:
    runner = spec_of(model("vits-voices"), speaker_id=1)._runner()
    chunks = [[unpack(pack(chunk)) for chunk in runner.preprocess(text)] for text in TEXTS]
    outputs = [[unpack(pack(output)) for output in made] for made in runner.outputs(chunks)]
    assert_close([runner.postprocess(made) for made in outputs], list(runner.run(TEXTS)))


def test_forward_parameters_reach_the_model(model: Model) -> None:
    slow, fast = (
        spec_of(model("vits"), forward_params={"speaking_rate": rate}).run(TEXTS[:2])[1]["audio"] for rate in (0.5, 2.0)
    )
    assert len(slow) > 2 * len(fast)


@pytest.mark.parametrize("text", ["", "  ", "日本"])
def test_a_text_without_letters_fails_alone(text: str, model: Model) -> None:
    results = spec_of(model("vits")).run(["hello", text, "you"])
    assert isinstance(results[1], rp.RowError)
    assert results[1].type == "InvalidInput"
    assert len(results[0]["audio"]) and len(results[2]["audio"])


def test_a_voice_that_is_none_fails_alone(model: Model) -> None:
    rows = [{"text": "a", "speaker_embeddings": voice} for voice in ("x", [[1.0]], [float("nan")])]
    for result in spec_of(model("vits")).run(rows):
        assert isinstance(result, rp.RowError) and "speaker_embeddings: expected" in result.message


def test_generation_is_refused_for_a_model_that_does_not_generate(model: Model) -> None:
    for parameters in ({"generate_kwargs": {"do_sample": True}}, {"max_new_tokens": 5}):
        with pytest.raises(rp.ModelLoadError, match="VitsModel does not generate; use forward_params, not"):
            spec_of(model("vits"), **parameters).run(["hello"])


def test_channels_are_interleaved_and_fit_the_arrow_type() -> None:
    task = tasks.get("text-to-audio")
    parameters = tasks.validate_parameters(task, {})
    stereo = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32)
    result = task.to_result({"audio": stereo, "sampling_rate": 8000}, parameters)
    assert result["num_channels"] == 2
    np.testing.assert_array_equal(result["audio"].reshape(-1, 2).T, stereo)
    assert task.result_type is not None
    column, errors = results_to_arrow([result], task.result_type(parameters))
    assert errors == [None]
    assert column[0].as_py() == {"audio": [1, 4, 2, 5, 3, 6], "sampling_rate": 8000, "num_channels": 2}
