"""Recordings of every kind that a column may hold, limits, broken data, and the way back to WAV."""

from __future__ import annotations

import base64
import contextlib
import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import soxr
import torch

from ray_pipelines import media
from ray_pipelines.config import MediaLimits
from ray_pipelines.errors import InvalidInput, InvalidRow, MediaError
from ray_pipelines.media.audio import BLOCK_FRAMES, encode_wav, load_audio
from tests.cases.media import sound

LIMITS = MediaLimits(max_seconds=10)
RATE = 16_000


def encoded(samples: np.ndarray, rate: int = RATE, **options: Any) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, **({"format": "WAV", "subtype": "FLOAT"} | options))
    return buffer.getvalue()


@pytest.fixture
def tone() -> np.ndarray:
    return sound(4000) * np.float32(0.2)


def test_every_form_of_a_recording_gives_the_same_samples(tone: np.ndarray, tmp_path: Path) -> None:
    wav = encoded(tone)
    path = tmp_path / "tone.wav"
    path.write_bytes(wav)
    forms = [
        tone,
        tone.astype(np.float64),
        tone.tolist(),
        tone[None],
        {"array": tone, "sampling_rate": RATE},
        {"raw": tone.tolist(), "sampling_rate": RATE},
        {"array": tone, "sampling_rate": None},
        wav,
        bytearray(wav),
        memoryview(wav),
        {"bytes": wav, "path": None},
        {"bytes": None, "path": str(path)},
        str(path),
        f"file://{path}",
        f"data:audio/wav;base64,{base64.b64encode(wav).decode()}",
        base64.b64encode(wav).decode(),
        base64.encodebytes(wav).decode(),
    ]
    for form in forms:
        samples = media.decode(form, "audio", LIMITS, RATE)
        assert samples.dtype == np.float32
        np.testing.assert_array_equal(samples, tone)


def test_a_tensor_is_a_recording(tone: np.ndarray) -> None:
    np.testing.assert_array_equal(load_audio(torch.from_numpy(tone), LIMITS, RATE), tone)


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"subtype": "PCM_16"}, 1e-4),
        ({"subtype": "PCM_U8"}, 1e-2),
        ({"subtype": "PCM_24"}, 1e-6),
        ({"format": "FLAC", "subtype": "PCM_16"}, 1e-4),
        ({"format": "AIFF", "subtype": "PCM_16"}, 1e-4),
    ],
)
def test_lossless_formats_are_decoded(tone: np.ndarray, options: dict[str, Any], tolerance: float) -> None:
    np.testing.assert_allclose(load_audio(encoded(tone, **options), LIMITS, RATE), tone, atol=tolerance)


@pytest.mark.parametrize("options", [{"format": "MP3", "subtype": None}, {"format": "OGG", "subtype": "VORBIS"}])
def test_lossy_formats_are_decoded(options: dict[str, Any]) -> None:
    tone = np.sin(np.arange(RATE) * 0.05).astype(np.float32) * 0.5
    samples = load_audio(encoded(tone, **options), LIMITS, RATE)
    assert abs(len(samples) - len(tone)) < 2500
    assert np.std(samples) == pytest.approx(np.std(tone), rel=0.1)


def in_container(samples: np.ndarray, container: str, codec: str, rate: int = 48_000) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = rate
        file.mux([*stream.encode(frame), *stream.encode(None)])
    return buffer.getvalue()


CONTAINERS = [("mp4", "aac"), ("adts", "aac"), ("webm", "libopus")]


@pytest.mark.parametrize(("container", "codec"), CONTAINERS)
def test_sound_of_containers_is_decoded_and_resampled(container: str, codec: str) -> None:
    tone = np.sin(np.arange(48_000) * 0.05) * 0.5
    data = in_container(tone, container, codec)
    samples = load_audio(data, LIMITS, RATE)
    assert samples.dtype == np.float32 and abs(len(samples) - RATE) < 1500
    assert np.std(samples[2000:14_000]) == pytest.approx(np.std(tone), rel=0.1)
    with pytest.raises(MediaError, match=r"limits\.max_seconds"):
        load_audio(data, MediaLimits(max_seconds=0.5), RATE)


@pytest.mark.parametrize(("container", "codec"), CONTAINERS)
def test_broken_containers_never_raise_anything_else(container: str, codec: str) -> None:
    rng = np.random.default_rng(0)
    whole = in_container(np.sin(np.arange(9600) * 0.05), container, codec)
    for _ in range(60):
        data = bytearray(whole[: rng.integers(12, len(whole) + 1)])
        for _ in range(5):
            data[rng.integers(12, max(len(data), 13)) % len(data)] = rng.integers(256)
        with contextlib.suppress(InvalidRow):
            assert np.isfinite(load_audio(bytes(data), LIMITS, RATE)).all()


def test_playlists_are_not_opened(tmp_path: Path) -> None:
    secret = tmp_path / "tone.wav"
    secret.write_bytes(encoded(sound(4000)))
    playlist = f"#EXTM3U\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n".encode()
    with pytest.raises(MediaError, match="cannot be decoded"):
        load_audio(playlist, LIMITS, RATE)


def test_channels_are_averaged(tone: np.ndarray) -> None:
    left, right = tone, tone[::-1].copy()
    expected = (left + right) / 2
    np.testing.assert_allclose(load_audio(encoded(np.stack([left, right], 1)), LIMITS, RATE), expected, atol=1e-7)
    np.testing.assert_allclose(load_audio(np.stack([left, right]), LIMITS, RATE), expected, atol=1e-7)


def test_a_recording_is_resampled_once_to_the_models_rate(tone: np.ndarray) -> None:
    expected = soxr.resample(tone, 8000, RATE)
    for form in (encoded(tone, 8000), {"array": tone, "sampling_rate": 8000}, {"array": tone, "sampling_rate": 8e3}):
        np.testing.assert_array_equal(load_audio(form, LIMITS, RATE), expected)
    np.testing.assert_array_equal(load_audio(encoded(tone, 8000), LIMITS, None), tone)


def test_blocks_are_resampled_as_one_recording() -> None:
    long = sound(BLOCK_FRAMES + 5000) * np.float32(0.1)
    expected = soxr.resample(long, 44_100, RATE)
    np.testing.assert_array_equal(load_audio(encoded(long, 44_100), MediaLimits(), RATE), expected)
    stereo = encoded(np.stack([long, long], 1), RATE)
    np.testing.assert_array_equal(load_audio(stereo, MediaLimits(), RATE), long)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
def test_integers_are_scaled_by_their_bits(dtype: type[np.signedinteger[Any]]) -> None:
    edge = np.iinfo(dtype)
    samples = load_audio(np.array([edge.min, 0, edge.max], dtype=dtype), LIMITS, RATE)
    np.testing.assert_allclose(samples, [-1, 0, 1], atol=1e-2)


def test_integers_of_a_list_are_16_bit() -> None:
    np.testing.assert_allclose(load_audio([-32768, 0, 16384], LIMITS, RATE), [-1, 0, 0.5])
    with pytest.raises(InvalidInput, match="16 bits; got up to 70,000"):
        load_audio([0, 70_000], LIMITS, RATE)


def test_the_callers_dictionary_and_array_are_left_as_they_are(tone: np.ndarray) -> None:
    original = tone.copy()
    row = {"array": tone, "sampling_rate": 8000, "path": "x.wav"}
    load_audio(row, LIMITS, RATE)
    assert list(row) == ["array", "sampling_rate", "path"]
    np.testing.assert_array_equal(tone, original)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "got null"),
        (5, "got int"),
        ({}, "got dict"),
        ({"bytes": None, "path": None}, "got dict"),
        ([], "empty array"),
        ({"array": [], "sampling_rate": RATE}, "empty array"),
        (np.zeros((5, 100)), r"got shape \[5, 100\]"),
        (np.zeros((100, 2)), r"got shape \[100, 2\]"),
        (np.zeros((1, 1, 5)), "got shape"),
        (np.float32(1.0), "got"),
        (["a", "b"], "got <U1"),
        ([[0.0], [0.0, 1.0]], "array of samples"),
        (np.array([True]), "got bool"),
        (np.array([1], dtype=np.uint8), "got uint8"),
        ([0.0, float("nan")], "NaN"),
        (np.array([np.inf]), "NaN or infinity"),
        ({"array": [0.0], "sampling_rate": 0}, "positive sampling_rate; got 0"),
        ({"array": [0.0], "sampling_rate": -8000}, "positive sampling_rate"),
        ({"array": [0.0], "sampling_rate": "fast"}, "positive sampling_rate"),
        ({"array": [0.0], "sampling_rate": True}, "positive sampling_rate"),
        ({"raw": [0.0], "sampling_rate": 8000, "stride": (1, 1)}, "has a stride, which is not taken"),
    ],
    ids=str,
)
def test_wrong_values_are_refused_by_what_is_wrong(value: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        load_audio(value, LIMITS, RATE)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"", "empty value"),
        ("", "empty value"),
        (b"not a sound", "cannot be decoded"),
        (encoded(np.zeros(0, dtype=np.float32)), "no samples"),
        (encoded(np.zeros(500))[:30], "cannot be decoded"),
        ("no/such/file.wav", r"cannot open 'no/such/file.wav': .*No such file"),
        ("nowhere://x", "cannot open"),
        ("data:audio/wav;base64,%%%", "expected base64"),
        ("x" * 5000 + ".wav", "cannot open"),
        ({"bytes": None, "path": "no/such/file.wav"}, "cannot open"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_decoded_is_a_media_error(value: Any, message: str) -> None:
    with pytest.raises(MediaError, match=message) as error:
        load_audio(value, LIMITS, RATE)
    assert " at 0x" not in str(error.value), "an address in memory"


def test_not_a_number_in_a_file_is_refused() -> None:
    with pytest.raises(InvalidInput, match="NaN"):
        load_audio(encoded(np.array([0.0, np.nan], dtype=np.float32)), LIMITS, RATE)


def test_a_recording_of_no_sample_at_the_models_rate_is_refused() -> None:
    with pytest.raises(MediaError, match="no samples"):
        load_audio({"array": [0.1], "sampling_rate": 48_000}, LIMITS, RATE)


def test_a_truncated_recording_gives_what_is_there(tone: np.ndarray) -> None:
    wav = encoded(tone)
    np.testing.assert_array_equal(load_audio(wav[: len(wav) - 4000], LIMITS, RATE), tone[:-1000])


def test_channels_and_rates_of_no_microphone_are_refused_before_they_are_decoded() -> None:
    silence = encoded(np.zeros((500_000, 8), dtype=np.float32), 655_350, format="FLAC", subtype="PCM_16")
    assert len(silence) < 5000
    with pytest.raises(MediaError, match=r"4,000,000 samples .* the limit is 384,000, .* limits\.max_seconds"):
        load_audio(silence, MediaLimits(max_seconds=1), RATE)


def test_recordings_over_the_limits_are_refused(tone: np.ndarray, tmp_path: Path) -> None:
    short = MediaLimits(max_seconds=0.2)
    message = r"lasts 0\.2 s; the limit is 0\.2 s \(limits\.max_seconds\)"
    for form in (encoded(tone), tone, {"array": tone, "sampling_rate": RATE}):
        with pytest.raises(MediaError, match=message):
            load_audio(form, short, RATE)
    small = MediaLimits(max_bytes=1000)
    path = tmp_path / "tone.wav"
    path.write_bytes(encoded(tone))
    for form in (encoded(tone), str(path)):
        with pytest.raises(MediaError, match=r"the limit is 1,000 \(limits\.max_bytes\)"):
            load_audio(form, small, RATE)


@pytest.mark.parametrize("rate", [1, 50, 400_000])
def test_extreme_rates_are_resampled_or_refused(rate: int) -> None:
    try:
        samples = load_audio({"array": sound(500), "sampling_rate": rate}, MediaLimits(), RATE)
        assert len(samples) == pytest.approx(500 * RATE / rate, abs=2)
    except InvalidRow as error:
        assert "sampling_rate" in str(error)


def test_broken_bytes_never_raise_anything_else(tone: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    for options in ({}, {"format": "FLAC", "subtype": "PCM_16"}, {"format": "OGG", "subtype": "VORBIS"}):
        whole = encoded(tone, **options)
        for _ in range(60):
            data = bytearray(whole[: rng.integers(1, len(whole) + 1)])
            for _ in range(3):
                data[rng.integers(min(len(data), 200))] = rng.integers(256)
            try:
                samples = load_audio(bytes(data), LIMITS, RATE)
                assert len(samples) and np.isfinite(samples).all()
            except InvalidRow:
                pass


def test_wav_bytes_give_back_the_samples(tone: np.ndarray) -> None:
    samples, rate = soundfile.read(io.BytesIO(encode_wav(tone, 22_050)), dtype="float32")
    assert rate == 22_050
    np.testing.assert_allclose(samples, tone, atol=1 / 32768)
    exact, _ = soundfile.read(io.BytesIO(encode_wav(tone, RATE, "FLOAT")), dtype="float32")
    np.testing.assert_array_equal(exact, tone)
    stereo, _ = soundfile.read(io.BytesIO(encode_wav(np.stack([tone, -tone], 1), RATE)), dtype="float32")
    assert stereo.shape == (4000, 2)


def test_wav_samples_beyond_full_scale_are_clipped() -> None:
    samples, _ = soundfile.read(io.BytesIO(encode_wav([2.0, -2.0, 0.5], RATE)), dtype="float32")
    np.testing.assert_allclose(samples, [1, -1, 0.5], atol=1e-4)
