"""Fetching from hosts that the operator allows: this machine stands in for such a host."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx2
import pytest

from ray_pipelines.serve.fetch import _is_public, bounded, fetcher
from ray_pipelines.serve.refusals import Refused


@pytest.fixture
def server() -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """A server, and the hosts and paths that it was asked for."""
    asked: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.headers["host"].partition(":")[0], self.path))
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("location", f"http://127.0.0.1:{self.server.server_port}/secret")  # type: ignore[attr-defined]
                self.end_headers()
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * (5000 if self.path == "/large" else 5))

        def log_message(self, *_: Any) -> None:
            pass

    made = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made.server_port, asked
    made.shutdown()
    made.server_close()


def here(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


def refused(fetch: Any, url: str) -> int:
    with pytest.raises(Refused) as error:
        fetch(url)
    assert "127.0.0.1" not in error.value.message
    return error.value.status


def test_no_host_is_allowed_unless_one_is_named() -> None:
    assert fetcher((), 1000) is None


def test_a_redirect_is_not_followed(server: tuple[int, list[tuple[str, str]]]) -> None:
    port, asked = server
    url = f"http://images.example:{port}/moved"
    fetch = fetcher(["images.example"], 1000, here, allow_private=True)
    assert fetch is not None
    naive = httpx2.get(f"http://127.0.0.1:{port}/moved", follow_redirects=True)
    assert naive.content == b"xxxxx" and asked[-1][1] == "/secret", "a naive client follows it"
    asked.clear()
    assert refused(fetch, url) == 422
    assert asked == [("images.example", "/moved")]


def test_a_name_is_resolved_once_and_only_to_public_addresses(server: tuple[int, list[tuple[str, str]]]) -> None:
    port, asked = server
    answers = iter([["93.184.216.34", "127.0.0.1"], ["127.0.0.1"], ["::1"], ["169.254.169.254"], ["10.0.0.1"], []])
    fetch = fetcher(["images.example"], 1000, lambda host, _: next(answers))
    for _ in range(6):
        assert refused(fetch, f"http://images.example:{port}/a") == 422
    assert not asked
    changing = iter([["127.0.0.1"], ["127.0.0.2"]])
    fetch = fetcher(["images.example"], 1000, lambda host, _: next(changing), allow_private=True)
    assert fetch is not None and fetch(f"http://images.example:{port}/a") == b"xxxxx"
    assert next(changing) == ["127.0.0.2"], "asked once: the connection went to the address that was checked"


@pytest.mark.parametrize(
    "address",
    ["64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:a00:1::1", "::ffff:10.0.0.1",
     "::127.0.0.1", "::ffff:0:7f00:1", "2001:0:5db8:d822:0:0:80ff:fffe", "fec0::1", "fe80::1", "ff0e::1", "ff02::1",
     "224.0.0.1", "239.1.1.1", "255.255.255.255", "0.0.0.0", "100.64.0.1"],
)  # fmt: skip
def test_addresses_that_stand_for_private_ones_or_for_many_are_not_public(address: str) -> None:
    fetch = fetcher(["images.example"], 1000, lambda *_: [address])
    with pytest.raises(Refused, match="an address that is not public"):
        assert fetch is not None and fetch("http://images.example/a")


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "2606:4700::1111", "64:ff9b::5db8:d822", "2002:5db8:d822::1", "::ffff:93.184.216.34"]
)
def test_addresses_that_stand_for_public_ones_are_public(address: str) -> None:
    assert _is_public(address)


def test_only_the_named_host_is_asked(server: tuple[int, list[tuple[str, str]]]) -> None:
    port, asked = server
    fetch = fetcher(["images.example"], 1000, here, allow_private=True)
    for url in (
        f"http://other.example:{port}/a",
        f"http://images.example.other:{port}/a",
        f"http://images.example@127.0.0.1:{port}/a",
        f"http://user:password@images.example:{port}/a",
        f"http://127.0.0.1:{port}/a",
        "ftp://images.example/a",
        "file:///etc/passwd",
        "http://images.example:notaport/",
        "http://[images.example/",
    ):
        assert refused(fetch, url) == 422
    assert not asked


def test_large_files_are_not_fetched_whole(server: tuple[int, list[tuple[str, str]]]) -> None:
    fetch = fetcher(["images.example"], 1000, here, allow_private=True)
    assert refused(fetch, f"http://images.example:{server[0]}/large") == 413


def test_the_urls_of_one_request_bring_no_more_than_its_body_might() -> None:
    fetch = bounded(lambda url: b"x" * 400, 1000)
    assert len(fetch("one")) == len(fetch("two")) == 400
    with pytest.raises(Refused, match="more than 1,000 bytes together"):
        fetch("three")
