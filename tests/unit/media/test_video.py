from __future__ import annotations

import io
import tracemalloc
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from ray_pipelines import media
from ray_pipelines.config import MediaLimits
from ray_pipelines.errors import InvalidInput, MediaError
from ray_pipelines.media.video import Video, load_video, num_decoded_pixels
from tests.cases.vision import all_frames, video

LIMITS = MediaLimits()


@pytest.mark.parametrize("container", ("mp4", "matroska", "avi"))
def test_frames_are_those_of_the_file(container: str) -> None:
    data = video(7, container=container)
    loaded = load_video(data, LIMITS)
    assert (len(loaded), loaded.height, loaded.width, loaded.frame_rate) == (7, 32, 48, 10.0)
    assert np.array_equal(np.asarray(loaded), all_frames(data))


def test_a_video_may_be_bytes_a_struct_a_path_or_frames(tmp_path: Path) -> None:
    data = video(5)
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    frames = all_frames(data)
    for value in (data, {"bytes": data, "path": None}, {"bytes": None, "path": str(path)}, str(path), frames):
        assert np.array_equal(np.asarray(media.decode(value, "video", LIMITS)), frames)
    loaded = load_video(data, LIMITS)
    assert load_video(loaded, LIMITS) is loaded


def test_only_the_chosen_frames_are_given() -> None:
    data = video(9)
    chosen = load_video(data, LIMITS).sample(lambda num_frames: [0, 3, 3, num_frames - 1])
    assert np.array_equal(chosen, all_frames(data)[[0, 3, 3, 8]])


def test_a_container_that_promises_too_many_frames_is_counted_again() -> None:
    data = video(6)
    loaded = load_video(data, LIMITS)
    loaded.num_frames = 50
    assert np.array_equal(loaded.sample(lambda num_frames: [0, num_frames - 1]), all_frames(data)[[0, 5]])
    assert loaded.num_frames == 6


def test_frames_may_grow_but_not_beyond_all_bounds() -> None:
    def growing(size: int) -> bytes:
        data = io.BytesIO()
        with av.open(data, "w", format="matroska") as container:
            stream = container.add_stream("mjpeg", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
            for n, side in enumerate((64, 64, size)):
                jpeg = io.BytesIO()
                Image.new("RGB", (side, side), "red").save(jpeg, "JPEG")
                packet = av.Packet(jpeg.getvalue())
                packet.stream, packet.pts, packet.dts, packet.time_base = stream, n, n, Fraction(1, 10)
                container.mux(packet)
        return data.getvalue()

    assert np.asarray(load_video(growing(128), LIMITS)).shape == (3, 64, 64, 3)
    with pytest.raises(MediaError, match=r"video: .*(frames|decoded)"):
        np.asarray(load_video(growing(2048), LIMITS))


@pytest.mark.parametrize("container", ("mp4", "matroska"))
def test_limits_are_kept(container: str) -> None:
    data = video(6, container=container)
    with pytest.raises(MediaError, match=r"frames or more; the limit is 5 \(limits\.max_frames\)"):
        load_video(data, MediaLimits(max_frames=5))
    with pytest.raises(MediaError, match=r"1,536 pixels \(48 x 32\); the limit is 1,000 \(limits\.max_pixels\)"):
        load_video(data, MediaLimits(max_pixels=1000))
    with pytest.raises(MediaError, match=r"48 x 32 pixels; .*limits\.max_aspect_ratio"):
        load_video(data, MediaLimits(max_aspect_ratio=1.4))
    with pytest.raises(MediaError, match=r"limits\.max_bytes"):
        load_video(data, MediaLimits(max_bytes=100))
    with pytest.raises(MediaError, match=r"the limit is 0\.4 s \(limits\.max_seconds\)"):
        load_video(data, MediaLimits(max_seconds=0.4)).sample(lambda num_frames: [num_frames - 1])


@pytest.mark.parametrize("source", (video(6), all_frames(video(6))), ids=("encoded", "decoded"))
def test_frames_are_bounded_together_before_they_are_decoded(source: bytes | np.ndarray) -> None:
    loaded = load_video(source, MediaLimits(max_taken_pixels=5 * 1536))
    assert len(loaded.sample(lambda num_frames: range(1, num_frames))) == 5
    with pytest.raises(MediaError, match=r"6 frames .* 9,216 pixels; the limit is 7,680 \(limits\.max_taken_pixels\)"):
        np.asarray(loaded)


def test_frames_are_in_memory_once() -> None:
    loaded = load_video(video(40, size=(320, 240)), LIMITS)
    tracemalloc.start()
    try:
        frames = np.asarray(loaded)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert frames.nbytes <= peak < 1.2 * frames.nbytes


@pytest.mark.parametrize("container", ("mp4", "matroska", "avi"))
def test_the_pixels_of_all_frames_stand_in_the_header(container: str) -> None:
    assert num_decoded_pixels(video(7, container=container)) == 7 * 32 * 48
    assert num_decoded_pixels(b"not a video") == 0


@pytest.mark.parametrize("degrees", (0, 90, 180, -90))
def test_frames_are_upright(degrees: int) -> None:
    data = video(3, rotation=degrees)
    loaded = load_video(data, LIMITS)
    upright = np.rot90(all_frames(data), degrees // 90, axes=(1, 2))
    assert (loaded.height, loaded.width) == upright.shape[1:3]
    assert np.array_equal(np.asarray(loaded), upright)


@pytest.mark.parametrize(
    "playlist",
    (
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/hostname\n",
    ),
)
def test_playlists_are_not_opened(playlist: bytes) -> None:
    with pytest.raises(MediaError, match="of no known format"):
        load_video(playlist, LIMITS)


def sound_file() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(1600))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    (
        (b"not a video", "cannot be decoded"),
        (video(6)[:200], "cannot be decoded"),
        (b"", "empty value"),
        (sound_file(), "has no video stream"),
    ),
)
def test_what_is_no_video_is_said_to_be_none(data: bytes, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        load_video(data, LIMITS).sample(lambda num_frames: [num_frames - 1])


@pytest.mark.parametrize("value", (None, 3, np.zeros((2, 4, 4)), np.zeros((2, 4, 4, 4), np.uint8)))
def test_values_of_other_kinds_are_refused(value: object) -> None:
    with pytest.raises(InvalidInput, match="video: expected"):
        load_video(value, LIMITS)


def test_frames_can_be_converted() -> None:
    loaded = Video(np.full((2, 3, 4, 3), 7, dtype=np.uint8), LIMITS)
    assert np.asarray(loaded, dtype=np.float32).dtype == np.float32
