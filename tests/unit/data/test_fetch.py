"""Media that rows name by URI: in order, within limits, one bad address one error."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ray_pipelines.config import FilesystemConfig, MediaLimits
from ray_pipelines.data.fetch import fetched
from ray_pipelines.errors import RowError


class Web(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.path[1:].encode() * (100_000 if "large" in self.path else 1))

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    """A web server that knows no ranges."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def fetch(rows: list[Any], modality: str = "image") -> list[Any]:
    limits = MediaLimits(max_bytes=1000)
    return list(fetched(rows, {"image": modality, "text": "text"}, limits, FilesystemConfig()))


def test_rows_keep_their_order_and_bad_addresses_are_errors_of_their_rows(web: str) -> None:
    bad = ["/missing", "/large"]
    rows: list[Any] = [{"image": f"{web}/{n}", "text": f"{web}/text"} for n in range(60)]
    rows[7] = {"image": web + bad[0]}
    rows[8] = {"image": web + bad[1]}
    rows[9] = {"image": "http://127.0.0.1:9/nobody"}
    rows[10] = {"image": "git://host/x"}
    rows[11] = {"image": f"simplecache::{web}/1"}
    rows[12] = {"image": b"bytes"}
    rows[13] = RowError("read", "BrokenFile", "x")
    found = fetch(rows)
    for n in {*range(60)} - {*range(7, 14)}:
        assert found[n] == {"image": str(n).encode(), "text": f"{web}/text"}
    assert found[12:14] == rows[12:14]
    assert [(error.stage, error.type) for error in found[7:12]] == [("read", "MediaError")] * 5
    assert "limits.max_bytes" in found[8].message
    assert "is not opened" in found[10].message


def test_structs_lists_and_chats_are_looked_into(web: str) -> None:
    struct = {"bytes": None, "path": f"{web}/a"}
    assert fetch([{"image": struct}]) == [{"image": {**struct, "bytes": b"a"}}]
    assert fetch([{"image": [f"{web}/a", b"b"]}], "images") == [{"image": [b"a", b"b"]}]
    parts = [{"type": "text", "text": f"{web}/a"}, {"type": "image", "url": f"{web}/a"}]
    chat = [{"role": "user", "content": f"{web}/a"}, {"role": "user", "content": parts}]
    (found,) = fetch([{"image": chat}], "chat")
    assert found["image"][0] == chat[0]
    assert found["image"][1]["content"] == [parts[0], {"type": "image", "url": b"a"}]


def test_an_address_that_no_bucket_can_have_is_its_rows_fault_and_no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    (found,) = fetch([{"image": "s3://my_bucket!/x.png"}])
    assert isinstance(found, RowError) and found.type == "MediaError" and "my_bucket!" in found.message
