"""The holes of a naive server: each attack first works on the bare pipeline, and then not on the endpoint."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import soundfile
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.cases.vision import video
from tests.integration.serve.conftest import MODELS
from tests.integration.serve.test_clients import picture, recording

Endpoints = Callable[[str], str]


def post(url: str, body: Any, **arguments: Any) -> httpx2.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx2.post(url, content=content, timeout=60, **arguments)


@pytest.fixture
def listener(picture_bytes: bytes) -> Iterator[tuple[str, list[str]]]:
    """A server of this machine that should never be asked, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(picture_bytes)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/secret", asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def picture_bytes() -> bytes:
    return picture()


@pytest.fixture
def naive(model: Callable[[str], str]) -> Callable[[str], Any]:
    """The bare pipeline of a task."""
    return lambda task: transformers.pipeline(task, model=model(MODELS[task]), device="cpu")


def test_a_path_is_not_opened(endpoints: Endpoints, naive: Any, tmp_path: Path) -> None:
    file = tmp_path / "private.png"
    file.write_bytes(picture())
    assert naive("image-classification")(str(file)), "the bare pipeline opens it"
    for value in (str(file), f"file://{file}", "/etc/passwd", "../../etc/passwd"):
        answer = post(endpoints("image-classification"), {"inputs": value})
        assert answer.status_code == 422
        assert answer.json()["error"].startswith("image: expected base64")
    existing = post(endpoints("image-classification"), {"inputs": str(file)}).json()
    missing = post(endpoints("image-classification"), {"inputs": str(tmp_path / "missing.png")}).json()
    assert existing == missing, "or clients could find out which files there are"


def test_no_connection_is_made_for_a_client(endpoints: Endpoints, naive: Any, listener: tuple[str, list[str]]) -> None:
    url, asked = listener
    assert naive("image-classification")(url) and asked, "the bare pipeline fetches it"
    asked.clear()
    chat = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    for task, body in (
        ("image-classification", {"inputs": url}),
        ("image-classification", {"inputs": {"image": url}}),
        ("automatic-speech-recognition", {"inputs": url}),
        ("video-classification", {"inputs": url}),
        ("visual-question-answering", {"inputs": {"image": url, "question": "?"}}),
        ("document-question-answering", {"inputs": {"image": url, "question": "?"}}),
        ("image-text-to-text", {"inputs": chat}),
        ("keypoint-matching", {"inputs": {"image_0": url, "image_1": url}}),
        ("zero-shot-object-detection", {"inputs": url, "parameters": {"candidate_labels": ["a"]}}),
    ):
        assert post(endpoints(task), body).status_code == 422, task
    answer = post(endpoints("image-text-to-text") + "/v1/chat/completions", {"messages": chat})
    assert answer.status_code == 422
    assert not asked


def test_parameters_cannot_run_code(endpoints: Endpoints, naive: Any, tmp_path: Path) -> None:
    marker, code = tmp_path / "marker", tmp_path / "repository"
    (code / "custom_generate").mkdir(parents=True)
    (code / "config.json").write_text("{}")
    (code / "custom_generate" / "generate.py").write_text(
        f"def generate(model, input_ids, **kwargs):\n    open({str(marker)!r}, 'w').close()\n    return input_ids\n"
    )
    attack = {"custom_generate": str(code), "trust_remote_code": True}
    naive("text-generation")("Hello", max_new_tokens=2, **attack)
    assert marker.exists(), "the bare pipeline runs it"
    marker.unlink()
    for parameters in (
        attack,
        {"generate_kwargs": attack},
        {"generation_parameters": attack},
        {"model_kwargs": attack},
    ):
        assert post(endpoints("text-generation"), {"inputs": "Hello", "parameters": parameters}).status_code == 422
        body = {"messages": [{"role": "user", "content": "Hello"}], **parameters}
        assert post(endpoints("text-generation") + "/v1/chat/completions", body).status_code == 400
    for task in ("automatic-speech-recognition", "image-to-text", "summarization", "text-to-audio"):
        body = {"inputs": "Hello", "parameters": {"generate_kwargs": attack}}
        assert post(endpoints(task), body).status_code == 422
    assert not marker.exists()


@pytest.mark.parametrize(
    ("task", "name", "value"),
    [
        ("text-generation", "assistant_model", "/tmp/model"),
        ("text-generation", "cache_implementation", "quantized"),
        ("text-generation", "compile_config", {}),
        ("text-generation", "tokenizer_encode_kwargs", {"tokenizer": "x"}),
        ("text-to-audio", "vocoder", "/tmp/vocoder"),
        ("text-to-audio", "forward_params", {"x": 1}),
        ("document-question-answering", "tesseract_config", "--user-words /etc/passwd"),
        ("feature-extraction", "tokenize_kwargs", {"padding": 10**9}),
        ("fill-mask", "tokenizer_kwargs", {"padding": 10**9}),
        ("automatic-speech-recognition", "decoder_kwargs", {"x": 1}),
    ],
)
def test_parameters_that_reach_into_libraries_are_refused(
    endpoints: Endpoints, task: str, name: str, value: Any
) -> None:
    inputs = base64.b64encode(recording(0.1)).decode() if task == "automatic-speech-recognition" else "a"
    answer = post(endpoints(task), {"inputs": inputs, "parameters": {name: value}})
    assert answer.status_code == 422
    assert name in answer.json()["error"]


@pytest.mark.parametrize(
    ("task", "parameters"),
    [
        ("text-generation", {"max_new_tokens": 10**7}),
        ("text-generation", {"num_beams": 1000}),
        ("text-generation", {"num_return_sequences": 1000, "do_sample": True}),
        ("text-generation", {"stop": ["x"] * 5000}),
        ("text-generation", {"encoder_no_repeat_ngram_size": 10**9}),
        ("zero-shot-classification", {"candidate_labels": [str(i) for i in range(5000)]}),
        ("zero-shot-classification", {"candidate_labels": ["a"], "hypothesis_template": "{:>9000000}"}),
        ("zero-shot-classification", {"candidate_labels": ["a"], "hypothesis_template": "{0.__class__.__mro__}"}),
        ("zero-shot-classification", {"candidate_labels": ["a"], "hypothesis_template": "{}{}"}),
        ("text-classification", {"top_k": 10**9}),
        ("text-classification", {"padding": "max_length", "max_length": 10**9}),
    ],
)
def test_costs_are_bounded_before_work_begins(endpoints: Endpoints, task: str, parameters: dict[str, Any]) -> None:
    start_s = time.monotonic()
    answer = post(endpoints(task), {"inputs": "Hello", "parameters": parameters})
    assert answer.status_code in (413, 422), answer.text
    assert time.monotonic() - start_s < 30


def test_candidates_of_all_masks_together_are_bounded(endpoints: Endpoints) -> None:
    url, text = endpoints("fill-mask"), "[MASK] " * 30
    answer = post(url, {"inputs": text, "parameters": {"top_k": 34}})
    assert (answer.status_code, "got 1,020" in answer.json()["error"]) == (413, True)
    for parameters in ({"top_k": 33}, {"top_k": 1000, "targets": ["the", "a"]}):
        made = post(url, {"inputs": text, "parameters": parameters})
        assert (made.status_code, len(made.json())) == (200, 30)
    assert post(url, {"inputs": "A [MASK].", "parameters": {"top_k": 1000}}).status_code == 200, "more than it knows"


def test_a_naive_server_makes_of_thirteen_bytes_what_they_ask_for() -> None:
    from transformers.pipelines.zero_shot_classification import ZeroShotClassificationArgumentHandler

    read = ZeroShotClassificationArgumentHandler()
    ((_, hypothesis),), _ = read(["Hello"], ["a"], "{:>900000}")
    assert len(hypothesis) == 900_000
    ((_, hypothesis),), _ = read(["Hello"], ["a"], "{0.__class__.__mro__}")
    assert "object" in hypothesis


def test_prompts_longer_than_the_model_never_reach_it(endpoints: Endpoints) -> None:
    for task in ("text-generation", "summarization", "text2text-generation", "translation"):
        answer = post(endpoints(task), {"inputs": "a b " * 50_000, "parameters": {"max_new_tokens": 2}})
        assert (answer.status_code, "tokens" in answer.text) == (413, True), task


def bomb(width: int = 12_000, height: int = 12_000) -> bytes:
    """A PNG of a few kilobytes that decodes to hundreds of megabytes."""

    def part(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x00\x00\x00\x00"
    packer = zlib.compressobj(9)
    pixels = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", pixels) + part(b"IEND", b"")


def test_decompression_bombs_are_refused(endpoints: Endpoints) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(Image.open(io.BytesIO(bomb())).tobytes()) == 144_000_000, "a naive server unpacks it"
    answer = post(endpoints("image-classification"), bomb())
    assert answer.status_code == 422 and "pixels" in answer.json()["error"]
    slow = io.BytesIO()
    import wave

    with wave.open(slow, "wb") as clip:
        clip.setnchannels(1)
        clip.setsampwidth(1)
        clip.setframerate(100)
        clip.writeframes(bytes(1_000_000))
    assert post(endpoints("automatic-speech-recognition"), slow.getvalue()).status_code == 422


def test_answers_are_bounded_before_work_begins(endpoints: Endpoints) -> None:
    url = endpoints("depth-estimation")
    answer = post(url, bomb(7000, 7000))
    assert answer.status_code == 413
    assert "at most 67,108,864 are sent" in answer.json()["error"] and "Accept: image/png" in answer.json()["error"]
    several = [base64.b64encode(bomb(1000, 1000)).decode()] * 7
    assert post(url, {"inputs": several}).status_code == 413


def test_files_of_one_request_are_bounded_together(endpoints: Endpoints) -> None:
    pictures = [base64.b64encode(bomb(7000, 7000)).decode()] * 100
    answer = post(endpoints("image-classification"), {"inputs": pictures})
    assert (answer.status_code, "4,900,000,000" in answer.json()["error"]) == (413, True)
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(600 * 8000, dtype=np.int16), 8000, format="FLAC")
    recordings = [base64.b64encode(silence.getvalue()).decode()] * 8
    assert post(endpoints("automatic-speech-recognition"), {"inputs": recordings}).status_code == 413


def test_tables_that_take_a_minute_to_tokenize_are_refused(endpoints: Endpoints) -> None:
    table = {f"column {number}": ["some other words"] * 4500 for number in range(10)}
    answer = post(endpoints("table-question-answering"), {"inputs": {"query": "Who?", "table": table}})
    assert (answer.status_code, "fewer rows" in answer.json()["error"]) == (413, True)


def test_a_number_of_frames_that_the_model_does_not_take_is_no_error_of_the_server(endpoints: Endpoints) -> None:
    body = {"inputs": base64.b64encode(video(20)).decode(), "parameters": {"num_frames": 10}}
    answer = post(endpoints("video-classification"), body)
    assert (answer.status_code, "this model takes 4 frames" in answer.json()["error"]) == (422, True)


def test_bodies_are_counted_also_when_they_come_in_pieces(endpoints: Endpoints) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(40):
            yield b"x" * (1 << 20)

    assert post(endpoints("text-classification"), b"x" * (17 << 20)).status_code == 413
    try:
        answer = httpx2.post(endpoints("text-classification"), content=pieces(), timeout=60)
        assert answer.status_code == 413
    except httpx2.WriteError:
        pass  # the server has answered and closed before the client had sent all


@pytest.mark.parametrize("task", ["video-classification", "automatic-speech-recognition", "image-classification"])
def test_files_that_name_others_open_none(endpoints: Endpoints, listener: tuple[str, list[str]], task: str) -> None:
    url, asked = listener
    private = "/etc/passwd"
    for text in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXTINF:1,\n{private}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{url}'\nfile '{private}'\n",
        f"concat:{private}|{url}",
        f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}"/><image href="file://{private}"/></svg>',
        f"push graphic-context\nimage over 0,0 0,0 '{url}'\npop graphic-context",
        f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({private}) run\n",
        f"%PDF-1.4\n1 0 obj<</Type/Catalog/OpenAction<</S/URI/URI({url})>>>>endobj\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
    ):
        httpx2.get(endpoints("_opened"))
        answer = post(endpoints(task), text.encode())
        assert answer.status_code in (400, 415, 422), (text, answer.text)
        assert "root:" not in answer.text
        assert httpx2.get(endpoints("_opened")).json() == []
    assert not asked


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_pictures_of_many_frames_cost_as_much_as_one(endpoints: Endpoints, kind: str) -> None:
    frames = [Image.new("RGB", (64, 64), (shade, 0, 0)) for shade in range(200)]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    assert post(endpoints("image-classification"), file.getvalue()).status_code == 200


def test_headers_of_recordings_are_not_believed(endpoints: Endpoints) -> None:
    clip = bytearray(recording(0.2))
    for size in (0xFFFFFFFF, 0x7FFFFFFF, 0):
        clip[40:44] = size.to_bytes(4, "little")
        assert post(endpoints("automatic-speech-recognition"), bytes(clip)).status_code in (200, 422)
    clip = bytearray(recording(0.2))
    clip[22:24] = (60_000).to_bytes(2, "little")
    assert post(endpoints("automatic-speech-recognition"), bytes(clip)).status_code in (200, 422)
    clip = bytearray(recording(0.2))
    clip[24:28] = (0xFFFFFFFF).to_bytes(4, "little")
    assert post(endpoints("automatic-speech-recognition"), bytes(clip)).status_code in (200, 422)


def test_the_template_of_a_chat_is_the_models(endpoints: Endpoints, naive: Any) -> None:
    attack = "{% for i in range(10) %}{{ i }}{% endfor %}"
    chat = [{"role": "user", "content": "Hello"}]
    made = naive("text-generation").tokenizer.apply_chat_template(chat, chat_template=attack, tokenize=False)
    assert made == "0123456789", "a naive server runs a client's program"
    url = endpoints("text-generation")
    for name in ("chat_template", "chat_template_kwargs", "tokenizer_encode_kwargs"):
        body = {"messages": chat, name: attack, "max_tokens": 2}
        assert post(url + "/v1/chat/completions", body).status_code == 400
        assert post(url, {"inputs": chat, "parameters": {name: attack}}).status_code == 422


def test_many_idle_connections_keep_nobody_out(endpoints: Endpoints) -> None:
    port = int(endpoints("text-classification").split(":")[2].split("/")[0])
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(500)]
    try:
        for one in idle[:250]:  # which claim 4 GB
            one.sendall(b"POST /text-classification HTTP/1.1\r\nHost: a\r\nContent-Length: 16777216\r\n\r\n{")
        assert post(endpoints("text-classification"), {"inputs": "Hello"}).status_code == 200
    finally:
        for one in idle:
            one.close()
    assert post(endpoints("text-classification"), {"inputs": "Hello"}).status_code == 200


def test_paths_lead_nowhere_else(endpoints: Endpoints) -> None:
    url = endpoints("text-classification")
    for path in ("//", "/v1/", "/"):
        assert post(url + path, {"inputs": "Hello"}).status_code == 200
    for path in (
        "/%2e%2e/info",
        "/..%2finfo",
        "/%00",
        "/v1/../../info",
        "/info;x",
        "/v1/models/..%2f..%2fetc%2fpasswd",
    ):
        assert httpx2.get(url + path).status_code == 404
    for method in ("OPTIONS", "TRACE", "PUT", "DELETE", "PATCH"):
        assert httpx2.request(method, url).status_code == 405


def test_errors_and_logs_repeat_nothing_of_the_input(
    endpoints: Endpoints, naive: Any, servers_log: Callable[[], str]
) -> None:
    secret = base64.b64encode(b"my secret document").decode()
    with pytest.raises(ValueError, match=secret):
        naive("image-classification")(secret)  # and what a naive server logs and answers
    for task, body in (
        ("image-classification", {"inputs": secret}),
        ("automatic-speech-recognition", {"inputs": secret}),
        ("text-classification", {"inputs": "a " * 5000 + secret}),
        ("text-classification", {"inputs": {"txt": secret}}),
        ("text-classification", {"inputs": [[secret]]}),
    ):
        answer = post(endpoints(task), body)
        assert 400 <= answer.status_code < 500, (task, answer.status_code)
        assert secret not in answer.text
        assert "model_kwargs" not in answer.text, "a phrase that sends a client into endless repetition"
    post(
        endpoints("text-classification") + f"?q={secret}", {"inputs": 3}, headers={"authorization": f"Bearer {secret}"}
    )
    assert secret not in servers_log()


def test_long_texts_are_refused_with_lengths_or_truncated_on_request(endpoints: Endpoints, naive: Any) -> None:
    text = "word " * 2000
    with pytest.raises(RuntimeError, match="size"):
        naive("text-classification")(text)  # an error of the server, with shapes
    answer = post(endpoints("text-classification"), {"inputs": text})
    assert answer.status_code == 413 and "tokens" in answer.json()["error"]
    cut = post(endpoints("text-classification"), {"inputs": text, "parameters": {"truncation": True}})
    assert cut.status_code == 200


BODIES: dict[str, Any] = {
    "text-classification": {"inputs": "Hello"},
    "text-generation": {"inputs": "Hello", "parameters": {"max_new_tokens": 2}},
    "zero-shot-classification": {"inputs": "Hello", "parameters": {"candidate_labels": ["a", "b"]}},
    "question-answering": {"inputs": {"question": "Who?", "context": "Paris is great."}},
    "table-question-answering": {"inputs": {"query": "Who?", "table": {"Name": ["John"]}}},
    "image-classification": {"inputs": base64.b64encode(picture(8, 8)).decode()},
    "automatic-speech-recognition": {"inputs": base64.b64encode(recording(0.1)).decode()},
    "document-question-answering": {"inputs": {"question": "?", "word_boxes": [["a", [0, 0, 1, 1]]]}},
    "decision": {"inputs": {"state": {"a": 1}, "questions": {"q": {"type": "noul", "instructions": "?"}}}},
}

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
)


@st.composite
def changed(draw: st.DrawFn) -> tuple[str, Any]:
    """A valid body with one thing in it replaced, added or taken away."""
    task = draw(st.sampled_from(sorted(BODIES)))
    body = json.loads(json.dumps(BODIES[task]))
    place = body
    while isinstance(place, dict) and place:
        key = draw(st.sampled_from(sorted(place)) | st.sampled_from(["parameters", "inputs", "stream", "options"]))
        if not isinstance(place.get(key), dict) or draw(st.booleans()):
            place[key] = draw(values)
            if draw(st.integers(0, 5)) == 0:
                del place[key]
            break
        place = place[key]
    return task, body


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(request=changed())
def test_no_request_is_an_error_of_the_server(endpoints: Endpoints, request: tuple[str, Any]) -> None:
    task, body = request
    answer = post(endpoints(task), json.dumps(body).encode("utf-8", "surrogatepass"))
    assert answer.status_code < 500, (task, body, answer.text)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(data=st.binary(max_size=200), kind=st.sampled_from([None, "image/png", "audio/x-wav", "application/json", "x"]))
def test_no_bytes_are_an_error_of_the_server(endpoints: Endpoints, data: bytes, kind: str | None) -> None:
    headers = {"content-type": kind} if kind else {}
    for task in ("image-classification", "automatic-speech-recognition", "text-classification", "video-classification"):
        assert post(endpoints(task), data, headers=headers).status_code < 500
