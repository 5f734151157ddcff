"""Speech recognition: batches that change nothing, where those of transformers do, and its parameters."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import soxr
import torch
import transformers

import ray_pipelines as rp
from ray_pipelines.engine.transfer import pack, packed_bytes, unpack
from tests.cases.media import sound, sounds

TASK = "automatic-speech-recognition"
CHUNKS = {"chunk_length_s": 0.5, "stride_length_s": [0.1, 0.05]}
Model = Callable[[str], str]


def spec_of(model: str, **parameters: Any) -> rp.PipelineSpec:
    return rp.pipeline(TASK, model=model, device="cpu", **parameters)


def reference(model: str) -> transformers.Pipeline:
    return transformers.pipeline(TASK, model=model, device="cpu")


def texts(results: list[Any]) -> list[str]:
    return [result["text"] for result in results]


@pytest.mark.parametrize("name", ["wav2vec2-ctc", "wav2vec2-ctc-groupnorm"])
@pytest.mark.parametrize("chunks", [{}, {"return_timestamps": "char", **CHUNKS}], ids=["whole", "chunks"])
def test_ctc_batches_equal_single_clips_where_those_of_transformers_differ(
    name: str, chunks: dict[str, Any], model: Model
) -> None:
    pipe = reference(model(name))
    singly = texts([pipe(clip, **chunks) for clip in sounds()])
    assert texts(pipe(sounds(), batch_size=6, **chunks)) != singly
    assert texts(spec_of(model(name), **chunks).run(sounds())) == singly


def test_ctc_clips_share_forwards_where_padding_changes_nothing(model: Model) -> None:
    batch = {"budget": 250_000}
    padded, unpadded = (spec_of(model(name), batch=batch) for name in ("wav2vec2-ctc", "wav2vec2-ctc-groupnorm"))
    padded.run(sounds())
    assert padded._runner().counters.num_forwards == 2, "the long and the short: one batch would be mostly padding"
    unpadded.run(sounds())
    num_lengths = len({len(clip) for clip in sounds()})
    assert unpadded._runner().counters.num_forwards == num_lengths


def test_whisper_languages_work_in_batches_where_transformers_fails(model: Model) -> None:
    pipe = reference(model("whisper"))
    with pytest.raises(IndexError):
        pipe(sounds(), batch_size=3, return_language=True)
    spec = spec_of(model("whisper"), return_language=True)
    clips = [clip for seed in range(4) for clip in (sound(16_000, seed), sound(9_000, seed + 10))]
    results = spec.run(clips)
    assert spec._runner().counters.num_forwards == 1
    heard = [result["chunks"][0]["language"] for result in results]
    assert heard == [pipe(clip, return_language=True)["chunks"][0]["language"] for clip in clips]
    assert set(heard) <= {"english", "german", "french"}


def test_whisper_words_have_the_times_of_single_clips_where_batches_of_transformers_move_them(model: Model) -> None:
    pipe = reference(model("whisper"))
    singly = [pipe(clip, return_timestamps="word")["chunks"] for clip in sounds()]
    batched = [result["chunks"] for result in pipe(sounds(), batch_size=6, return_timestamps="word")]
    assert batched != singly
    spec = spec_of(model("whisper"), return_timestamps="word")
    spec.run(sounds()[:1])
    network = spec._runner().steps.pipe.model
    with patch.object(network, "generate", wraps=network.generate) as generate:
        results = spec.run([*sounds(), *sounds()])
    assert generate.call_count < len(sounds()), "several clips at a time, each of the first ones once more alone"
    results = results[len(sounds()) :]
    times = [[(chunk["start"], chunk["end"]) for chunk in result["chunks"]] for result in results]
    assert times == [[chunk["timestamp"] for chunk in chunks] for chunks in singly]


def test_encoder_decoders_give_each_clip_its_own_text_where_batches_of_transformers_differ(model: Model) -> None:
    pipe = reference(model("moonshine"))
    singly = texts([pipe(clip, max_new_tokens=8) for clip in sounds()])
    assert texts(pipe(sounds(), batch_size=6, max_new_tokens=8)) != singly
    assert texts(spec_of(model("moonshine"), max_new_tokens=8).run(sounds())) == singly


def test_overlapping_chunks_of_encoder_decoders_are_merged_where_transformers_repeats_words(model: Model) -> None:
    pipe = spec_of(model("moonshine"))._runner().steps.pipe
    words = pipe.tokenizer("the quick brown fox jumps over", add_special_tokens=False)["input_ids"]
    begin, end = pipe.tokenizer.cls_token_id, pipe.tokenizer.sep_token_id
    parts = ([begin, *words[:4], end], [begin, *words[2:], end, end])
    outputs = [{"tokens": torch.tensor([part]), "is_last": part is parts[1]} for part in parts]
    assert pipe.postprocess(outputs)["text"] == "the quick brown fox jumps over"
    repeated = reference(model("moonshine")).postprocess([dict(output) for output in outputs])["text"]
    assert repeated == pipe.tokenizer.decode([*words[:4], *words[2:]]) != "the quick brown fox jumps over"


def test_chunks_of_encoder_decoders_do_not_depend_on_batches(model: Model) -> None:
    parameters = {"max_new_tokens": 6, "num_beams": 1, "chunk_length_s": 0.3}
    singly = spec_of(model("moonshine"), batch={"max_size": 1}, **parameters).run(sounds())
    assert spec_of(model("moonshine"), **parameters).run(sounds()) == singly


def test_chunks_are_null_without_timestamps(model: Model) -> None:
    (result,) = spec_of(model("wav2vec2-ctc"), return_timestamps=False).run(sounds()[:1])
    assert result["chunks"] is None


def test_times_grow_along_a_recording(model: Model) -> None:
    for parameters in ({"return_timestamps": "char"}, {"return_timestamps": "word", **CHUNKS}):
        (result,) = spec_of(model("wav2vec2-ctc"), **parameters).run(sounds()[:1])
        starts = [chunk["start"] for chunk in result["chunks"]]
        assert starts == sorted(starts) and starts[0] >= 0 and result["chunks"][-1]["end"] <= 1.02
        assert all(chunk["language"] is None for chunk in result["chunks"])


def test_recordings_at_another_rate_are_resampled_and_the_callers_dictionary_is_left_as_it_is(model: Model) -> None:
    spec = spec_of(model("wav2vec2-ctc"))
    clip = sound(6000)
    row = {"array": clip, "sampling_rate": 8000, "path": "x.wav"}
    expected = spec.run([soxr.resample(clip, 8000, 16_000)])
    assert spec.run([row]) == expected
    assert spec.run([{"audio": clip, "sampling_rate": 8000}]) == expected
    assert list(row) == ["array", "sampling_rate", "path"]


def test_a_clip_too_short_for_a_frame_fails_alone(model: Model) -> None:
    results = spec_of(model("wav2vec2-ctc")).run([sound(4000), sound(9), sound(5000)])
    assert isinstance(results[1], rp.RowError)
    assert results[1].message == "audio: 9 samples are too short for this model."
    assert results[0]["text"] and results[2]["text"]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("wav2vec2-ctc", {"return_timestamps": "char", **CHUNKS}),
        ("wav2vec2-ctc-groupnorm", {}),
        ("whisper", {"return_timestamps": True, "chunk_length_s": 1.5}),
        ("whisper", {"return_timestamps": "word"}),
        ("whisper", {"return_language": True}),
    ],
)
def test_chunks_and_outputs_survive_the_way_between_stages(name: str, parameters: dict[str, Any], model: Model) -> None:
    spec = spec_of(model(name), **parameters)
    clips = [*sounds()[:3], sound(40_000)]
    runner = spec._runner()
    chunks = [[unpack(pack(chunk)) for chunk in runner.preprocess(clip)] for clip in clips]
    outputs = [[unpack(pack(output)) for output in made] for made in runner.outputs(chunks)]
    assert [runner.postprocess(made) for made in outputs] == spec.run(clips)


@pytest.mark.parametrize("name", ["wav2vec2-ctc", "wav2vec2-ctc-groupnorm", "whisper"])
def test_chunks_of_three_hours_are_made_one_at_a_time(name: str, model: Model) -> None:
    steps = spec_of(model(name), chunk_length_s=1.5)._runner().steps
    three_hours = np.broadcast_to(np.float32(0.1), 3 * 3600 * steps.sampling_rate)
    tracemalloc.start()
    try:
        chunks = list(itertools.islice(steps.preprocess(three_hours), 4))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(chunks) == 4 and not any(chunk["is_last"] for chunk in chunks)
    assert peak < three_hours.nbytes / 20


@pytest.mark.parametrize("name", ["wav2vec2-ctc", "wav2vec2-ctc-groupnorm", "whisper"])
def test_a_chunk_is_its_samples_or_features_and_becomes_a_few_tokens(name: str, model: Model) -> None:
    steps = spec_of(model(name), chunk_length_s=1.5, return_timestamps=name == "whisper")._runner().steps
    for chunk in steps.preprocess(sound(30_000)):
        audio = chunk.get("input_values", chunk.get("input_features"))
        num_frames = audio.shape[-1]
        assert packed_bytes(pack(chunk)) < audio.numel() * 4 + num_frames + 100
        output = steps.forward(chunk)
        assert "logits" not in output
        assert packed_bytes(pack(output)) < 12 * output["tokens"].numel() + 100


def test_generation_parameters_reach_the_model(model: Model) -> None:
    short = spec_of(model("whisper"), max_new_tokens=4, num_beams=1).run(sounds()[:2])
    pipe = reference(model("whisper"))
    for clip, result in zip(sounds(), short, strict=False):
        assert result["text"] == pipe(clip, max_new_tokens=4, num_beams=1)["text"]
        assert len(result["text"]) < len(pipe(clip)["text"])


@pytest.mark.parametrize(
    ("parameters", "random"),
    [
        ({}, False),
        ({"temperature": 0.7}, True),
        ({"temperature": [0.0, 0.2]}, True),
        ({"temperature": [0.0]}, False),
        ({"do_sample": True}, True),
        ({"generate_kwargs": {"do_sample": True}}, True),
        ({"generate_kwargs": {"temperature": [0.0, 0.4]}}, True),
    ],
    ids=str,
)
def test_only_sampling_is_random(parameters: dict[str, Any], random: bool, model: Model) -> None:
    assert spec_of(model("whisper"), **parameters)._runner().steps.is_random is random
    assert spec_of(model("wav2vec2-ctc"))._runner().steps.is_random is False


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"stride_length_s": 1.0}, "expected chunk_length_s beside it"),
        ({"chunk_length_s": 2.0, "stride_length_s": 1.0}, r"less than chunk_length_s \(2 s\) together; got 1 and 1"),
        ({"chunk_length_s": 2.0, "stride_length_s": [1.5, 0.5]}, "got 1.5 and 0.5"),
        ({"chunk_length_s": 0}, "chunk_length_s"),
        ({"return_timestamps": "words"}, "return_timestamps"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"chunk_lenght_s": 3}, "chunk_length_s"),
    ],
    ids=str,
)
def test_wrong_parameters_are_refused_before_anything_loads(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(rp.ConfigError, match=message):
        rp.pipeline(TASK, model="org/nothing", **parameters)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("wav2vec2-ctc", {"return_timestamps": True}, "CTC can either predict character"),
        ("wav2vec2-ctc", {"return_language": True}, "Only Whisper can return language"),
        ("wav2vec2-ctc", {"generate_kwargs": {"language": "de"}}, "does not generate; drop language"),
        ("wav2vec2-ctc", {"max_new_tokens": 5}, "does not generate; drop max_new_tokens"),
        ("whisper", {"return_timestamps": "char"}, "Whisper cannot return `char` timestamps"),
    ],
)
def test_what_a_model_cannot_do_is_refused_when_it_loads(
    name: str, parameters: dict[str, Any], message: str, model: Model
) -> None:
    with pytest.raises(rp.ModelLoadError, match=message):
        spec_of(model(name), **parameters).run([np.zeros(4000, dtype=np.float32)])


@pytest.mark.parametrize("name", ["language", "task"])
def test_a_list_that_would_go_by_the_places_of_a_batch_is_refused(name: str) -> None:
    with pytest.raises(rp.ConfigError, match=f"generate_kwargs: {name}: expected one for all recordings; got a list"):
        spec_of("org/model", generate_kwargs={name: ["fr", "de"]})
