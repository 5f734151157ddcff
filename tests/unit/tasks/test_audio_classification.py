"""audio-classification: recordings too short for a model, alone and beside longer ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import ray_pipelines as rp
from tests.cases.media import sound

Model = Callable[[str], str]


@pytest.mark.parametrize("name", ["hubert-classifier", "wav2vec2-classifier-mask", "wav2vec2-classifier-groupnorm"])
def test_a_recording_without_a_frame_fails_in_any_batch(name: str, model: Model) -> None:
    spec = rp.pipeline("audio-classification", model(name), device="cpu")
    sounds = [sound(8000, 1), sound(9000, 2), sound(10), sound(8000, 3)]
    (alone,) = spec.run(sounds[2:3])
    first, second, short, last = spec.run([*sounds[:2], *sounds[2:]])
    for error in (alone, short):
        assert isinstance(error, rp.RowError)
        assert error.message == "audio: 10 samples are too short for this model."
    assert [first, second, last] == spec.run([*sounds[:2], sounds[3]], on_error="raise")
