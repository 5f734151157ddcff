"""Recordings of half a second to twelve seconds, most of them short, through models of two kinds.

    python -m benchmarks.audio --quick
    python -m benchmarks.audio --rounds 3

`wav2vec2`: convolutions and a masked transformer over the samples, so that padding costs. `whisper`: a spectrogram of
always 30 seconds, so that preprocessing and a fixed forward cost the same for each. Weights are random and small.
Contenders are those of `contenders.py`.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.common import CACHE
from benchmarks.contenders import Workload, arguments_of, compare, file_bytes

RATE_HZ = 16_000


def main() -> None:
    """Measures both workloads."""
    arguments = arguments_of(__doc__, rows=128)
    for name, folder, count in (
        ("audio-wav2vec2", wav2vec2(), arguments.rows),
        ("audio-whisper", whisper(), arguments.rows // 4),
    ):
        sounds = recordings(count)
        column = [file_bytes(lambda b, s=s: soundfile.write(b, s, RATE_HZ, format="WAV")) for s in sounds]
        work = Workload(name, "audio-classification", folder, sounds, column, "audio", decoded, {"top_k": 1})
        compare(work, f"{name.replace('-', ', ')}: {count} recordings, two CPU cores", arguments)


def decoded(value: bytes) -> np.ndarray:
    """The samples of a file's bytes."""
    samples, _ = soundfile.read(io.BytesIO(value), dtype="float32")
    return samples


def recordings(count: int) -> list[np.ndarray]:
    """Noise, of lengths drawn from a log-normal distribution."""
    random = np.random.default_rng(0)
    seconds = np.clip(random.lognormal(0.7, 0.7, count), 0.5, 12)
    return [random.normal(0, 0.1, int(length * RATE_HZ)).astype(np.float32) for length in seconds]


def wav2vec2() -> Path:
    """The folder of a model of wav2vec 2.0's kind that can be padded."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

    config = Wav2Vec2Config(
        hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512, conv_dim=(64,) * 7,
        feat_extract_norm="layer", do_stable_layer_norm=True, num_labels=10, classifier_proj_size=64,
    )  # fmt: skip
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=RATE_HZ, return_attention_mask=True, do_normalize=True)
    return _saved("wav2vec2-classifier", Wav2Vec2ForSequenceClassification, config, extractor)


def whisper() -> Path:
    """The folder of a classifier with an encoder of Whisper's kind."""
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForAudioClassification

    config = WhisperConfig(
        d_model=128, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=512, decoder_ffn_dim=512, num_labels=10, classifier_proj_size=64,
    )  # fmt: skip
    return _saved("whisper-classifier", WhisperForAudioClassification, config, WhisperFeatureExtractor())


def _saved(name: str, model_class: Any, config: Any, extractor: Any) -> Path:
    import torch

    folder = CACHE / name
    if not (folder / "model.safetensors").exists():
        torch.manual_seed(0)
        model_class(config).save_pretrained(folder)
        extractor.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
