from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
import soundfile
from PIL import Image

from ray_pipelines import tasks
from ray_pipelines.serve.client_json import json_object
from ray_pipelines.serve.config import ClientLimits
from ray_pipelines.serve.refusals import Refused
from ray_pipelines.serve.requests import parse_body, parse_call

LIMITS = ClientLimits(max_text_chars=1000, max_pixels=10_000)


def picture(width: int = 8, height: int = 8) -> str:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def rows(task: str, body: Any) -> Any:
    return parse_call(tasks.get(task), body, LIMITS).rows


def status(task: str, body: Any) -> int:
    with pytest.raises(Refused) as error:
        rows(task, body)
    return error.value.status


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"[" * 100_000, 400),
        (b'{"a":' * 5000, 400),
        (b'{"a":' * 600 + b'"\\ud800"' + b"}" * 600, 400),
        (b'{"inputs": 1e400}', 400),
        (b'{"inputs": NaN}', 400),
        (b'{"inputs": -Infinity}', 400),
        (b'{"inputs": ' + b"9" * 100_000 + b"}", 400),
        (b'{"inputs": "\xff"}', 400),
        (b"[1]", 400),
        (b"[" + b"[]," * 600_000 + b"[]]", 413),
    ],
)
def test_what_no_honest_client_sends_is_refused(body: bytes, expected: int) -> None:
    with pytest.raises(Refused) as error:
        json_object(body)
    assert error.value.status == expected


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"inputs": "my secret",\n"parameters" {}}', "line 2, column 14: Expecting ':' delimiter"),
        (b'{"inputs": "\xff"}', "expected UTF-8"),
        (b'{"inputs": NaN}', "finite numbers"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_body_that_is_no_json_is_told_where(body: bytes, reason: str) -> None:
    with pytest.raises(Refused, match=reason) as error:
        json_object(body)
    assert "secret" not in error.value.message


def test_a_mark_of_byte_order_is_no_part_of_json() -> None:
    assert json_object(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


@pytest.mark.parametrize("kind", ["application/json", None])
def test_an_empty_body_is_told_so(kind: str | None) -> None:
    with pytest.raises(Refused, match="is empty"):
        parse_body(tasks.get("text-classification"), kind, b"")


def test_halves_of_characters_become_question_marks() -> None:
    assert json_object(b'{"\\ud800": ["\\uDC00a", "\\ud83d\\ude00"]}') == {"?": ["?a", "😀"]}


@pytest.mark.parametrize("kind", ["text/plain;charset=UTF-8", "text/plain"])
def test_text_is_json_only_if_it_is_an_object_with_inputs(kind: str) -> None:
    task = tasks.get("text-classification")
    body = {"inputs": "Hi", "parameters": {"top_k": 2}}
    assert parse_body(task, kind, b' {"inputs": "Hi", "parameters": {"top_k": 2}}') == body
    for text in ("Hi", '"Hi"', '["a", "b"]', '{"input": "Hi"}', '{"inputs": "Hi"', "{Hi} \\ud800", '["inputs"]', ""):
        assert parse_body(task, kind, text.encode()) == {"inputs": text}
    assert parse_body(tasks.get("image-classification"), kind, b'{"inputs": "Hi"}') == {"inputs": "Hi"}


def test_of_a_key_that_is_there_twice_the_last_counts() -> None:
    task = tasks.get("text-classification")
    body = parse_body(task, None, b'{"inputs": "a", "inputs": 3}')
    with pytest.raises(Refused):
        parse_call(task, body, LIMITS)


@pytest.mark.parametrize(
    ("task", "place"),
    [
        ("decision", lambda value: {"inputs": {"state": "x", "assets": {"x": value}}}),
        ("any-to-any", lambda value: {"inputs": {"text": "x", "images": [value]}}),
        ("any-to-any", lambda value: {"inputs": {"text": "x", "videos": value}}),
        ("any-to-any", lambda value: {"inputs": {"text": "x", "audio": value}}),
        ("keypoint-matching", lambda value: {"inputs": {"image_0": value, "image_1": value}}),
        (
            "image-text-to-text",
            lambda value: {"inputs": [{"role": "user", "content": [{"type": "video_url", "video_url": value}]}]},
        ),
    ],
)
def test_media_are_bytes_wherever_they_stand(task: str, place: Any, tmp_path: Path) -> None:
    file = tmp_path / "private.png"
    file.write_bytes(base64.b64decode(picture()))
    for value in (str(file), f"file://{file}", {"path": str(file)}, {"bytes": None, "path": str(file)}, "http://x/"):
        assert status(task, place(value)) == 422
    data = base64.b64encode(b"RIFF PNG").decode()
    for value in (data, {"bytes": data}, f"data:image/png;base64,{data}"):
        assert str(file) not in str(rows(task, place(value)))
        assert b"PNG" in repr(rows(task, place(value))).encode()


def test_bounds_hold_for_all_of_an_input_together() -> None:
    message = {"role": "user", "content": "x" * 600}
    assert rows("text-generation", {"inputs": [message]})
    assert status("text-generation", {"inputs": [message, message]}) == 413
    table = {"query": "?", "table": {f"c{i}": ["x" * 100] for i in range(20)}}
    assert status("table-question-answering", {"inputs": table}) == 413
    large = picture(90, 90)
    assert rows("image-text-to-text", {"inputs": {"text": "x", "images": [large]}})
    assert status("image-text-to-text", {"inputs": {"text": "x", "images": [large, large]}}) == 422
    assert status("image-text-to-text", {"inputs": {"text": "x", "images": [picture()] * 65}}) == 422


def test_samples_are_numbers_of_a_sensible_size() -> None:
    for value in ([10**400], ["a"], [[1.0]], {"a": 1}, [None]):
        body = {"inputs": {"audio": {"array": value, "sampling_rate": 16_000}}}
        assert status("automatic-speech-recognition", body) == 422


def test_questions_in_a_text_are_json_like_that_of_a_body() -> None:
    (row,) = rows("decision", {"inputs": {"state": "x", "questions": '{"a\\ud800": {"type": "noul"}}'}})
    assert row["questions"] == {"a?": {"type": "noul"}}
    for text in ("[" * 900, '{"a": NaN}', "{"):
        assert status("decision", {"inputs": {"state": "x", "questions": text}}) in (400, 422)


def test_tables_are_bounded_by_what_their_questions_cost() -> None:
    limits = ClientLimits(max_table_chars=200)

    def ask(num_rows: int, query: Any) -> Any:
        body = {"inputs": {"table": {"a": ["x"] * num_rows, "b": [1] * num_rows}, "query": query}}
        return parse_call(tasks.get("table-question-answering"), body, limits).rows

    assert ask(10, "?") and ask(5, ["?"] * 3)
    for num_rows, query in ((30, "?"), (10, ["?"] * 3)):
        with pytest.raises(Refused, match="table: expected at most 200 characters") as refused:
            ask(num_rows, query)
        assert refused.value.status == 413


@pytest.mark.parametrize("labels", [[], "", ",", [""], ["a", " "], [None], {}])
def test_candidate_labels_are_texts_that_say_something(labels: Any) -> None:
    assert status("zero-shot-classification", {"inputs": "a", "parameters": {"candidate_labels": labels}}) == 422


def test_commas_without_a_label_between_them_make_none() -> None:
    (row,) = rows("zero-shot-classification", {"inputs": "a", "parameters": {"candidate_labels": "a,, b ,"}})
    assert row["candidate_labels"] == ["a", "b"]


@pytest.mark.parametrize("kind", soundfile.available_formats())
def test_only_recordings_of_well_known_kinds_are_taken(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # libsndfile writes a file beside SD2, also where that is in memory
    file = io.BytesIO()
    subtypes = {"RAW": "PCM_16", "MP3": "MPEG_LAYER_III", "PVF": "PCM_16"}
    soundfile.write(file, [0.0] * 8000, 8000, format=kind, subtype=subtypes.get(kind))
    body = {"inputs": base64.b64encode(file.getvalue()).decode()}
    if kind in ("AIFF", "AU", "CAF", "FLAC", "MP3", "OGG", "RF64", "W64", "WAV", "WAVEX"):
        assert rows("audio-classification", body) == ({"audio": file.getvalue()},)
    else:
        assert status("audio-classification", body) == 422
