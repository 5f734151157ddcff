"""Cases of speech recognition, speech synthesis and zero-shot classification of sounds."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.cases import Case
from tests.cases.media import TEXTS, sound, sounds

RECOGNIZE = "automatic-speech-recognition"
LABELS = {"candidate_labels": ["a dog", "rain on a roof", "bells"]}
CHUNKS = {"chunk_length_s": 0.5, "stride_length_s": [0.1, 0.05]}


def _few_sounds() -> list[np.ndarray]:
    return sounds()[:4]


def _long_sounds() -> list[np.ndarray]:
    return [sound(length, seed) for seed, length in enumerate((48_000, 9_000, 40_001, 48_000))]


def _sounds_of_a_window() -> list[np.ndarray]:
    return [sound(length, seed) for seed, length in enumerate((8_000, 500, 3_999, 8_000, 6_001))]


def _recognizer(name: str, model: str, parameters: dict[str, Any], items: Any = sounds) -> Case:
    return Case(name, RECOGNIZE, model, items, parameters, bad_item=b"not a sound")


CASES = [
    *(
        _recognizer(f"{model}-{name}", model, parameters)
        for model in ("wav2vec2-ctc", "wav2vec2-ctc-groupnorm")
        for name, parameters in (
            ("text", {}),
            ("chars", {"return_timestamps": "char"}),
            ("words", {"return_timestamps": "word"}),
            ("chunks", {"return_timestamps": "char", **CHUNKS}),
        )
    ),
    _recognizer("whisper-text", "whisper", {}, _few_sounds),
    _recognizer("whisper-segments", "whisper", {"return_timestamps": True, "num_beams": 2}, _few_sounds),
    _recognizer("whisper-words", "whisper", {"return_timestamps": "word", "num_beams": 1}),
    _recognizer("whisper-words-of-beams", "whisper", {"return_timestamps": "word", "num_beams": 2}, _few_sounds),
    _recognizer("whisper-language", "whisper", {"return_language": True, "num_beams": 1}, _few_sounds),
    _recognizer("whisper-german", "whisper", {"generate_kwargs": {"language": "de", "num_beams": 1}}, _few_sounds),
    _recognizer("whisper-short", "whisper", {"max_new_tokens": 5}, _few_sounds),
    _recognizer(
        "whisper-long", "whisper", {"return_timestamps": True, "return_language": True, "num_beams": 1}, _long_sounds
    ),
    _recognizer(
        "whisper-chunks", "whisper", {"return_timestamps": True, "chunk_length_s": 1.5, "num_beams": 1}, _long_sounds
    ),
    _recognizer("moonshine", "moonshine", {"max_new_tokens": 8}),
    Case(
        "musicgen",
        "text-to-audio",
        "musicgen",
        lambda: ["a song", "a very long song of the sea", "bells"],
        {"generate_kwargs": {"max_new_tokens": 12, "do_sample": False}},
        bad_item="",
    ),
    Case("vits", "text-to-audio", "vits", lambda: [*TEXTS[:3], *TEXTS[4:]], bad_item=""),
    *(
        Case(model, "zero-shot-audio-classification", model, _sounds_of_a_window, LABELS, bad_item=b"not a sound")
        for model in ("clap", "clap-fused")
    ),
]
