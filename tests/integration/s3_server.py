"""A real S3 server over HTTP: moto's, in a process of its own, behind a proxy that checks keys and makes trouble.

The proxy refuses requests without the right access key. It can also refuse to write, answer every n-th request with
503 SlowDown, or break the connection in the middle of an answer. It counts what it sends.
"""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import s3fs

KEY = "AKIATESTKEY7Q2XW9ZPL"
SECRET = "verySecret/Value+0987654321abcdefGHIJKLM"

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
DENIED = b"<Error><Code>InvalidAccessKeyId</Code><Message>The access key does not exist.</Message></Error>"

REFUSED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


@dataclass
class S3Server:
    """A running server.

    Attributes:
        url: Address of the proxy.
        port: Port of moto's server.
        slow_down_every, cut_every: Each n-th request fails in this way; 0 for none.
        refused: Requests to write are not allowed for paths with this in them; empty for none.
        requests: Method, path and bytes sent of each request that was answered.
        num_slowed, num_cut: How often each trouble was made.
    """

    url: str
    port: int
    slow_down_every: int = 0
    cut_every: int = 0
    refused: str = ""
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    num_slowed: int = 0
    num_cut: int = 0
    num_seen: int = 0
    lock: Any = field(default_factory=threading.Lock)

    @property
    def filesystem_options(self) -> dict[str, Any]:
        """`read.filesystem` of a job."""
        return {"endpoint_url": self.url, "region": "us-east-1", "key": KEY, "secret": SECRET}

    def client(self) -> Any:
        """A filesystem of the test's own, past the proxy."""
        return s3fs.S3FileSystem(
            key=KEY,
            secret=SECRET,
            endpoint_url=f"http://127.0.0.1:{self.port}",
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def fate(self) -> str:
        """What becomes of the next request."""
        with self.lock:
            self.num_seen += 1
            if self.slow_down_every and self.num_seen % self.slow_down_every == 0:
                self.num_slowed += 1
                return "slow"
            if self.cut_every and self.num_seen % self.cut_every == 0:
                self.num_cut += 1
                return "cut"
            return "fine"

    @contextmanager
    def trouble(self, *, slow_down_every: int = 0, cut_every: int = 0) -> Iterator[None]:
        """Trouble for a while."""
        self.slow_down_every, self.cut_every, self.num_slowed, self.num_cut = slow_down_every, cut_every, 0, 0
        try:
            yield
        finally:
            self.slow_down_every = self.cut_every = 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _handler_of(server: S3Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def _answer(self) -> None:
            body = self._body()
            if f"Credential={KEY}/" not in self.headers.get("Authorization", ""):
                self._send(403, {}, DENIED)
                return
            if server.refused and self.command in ("PUT", "POST") and server.refused in self.path:
                self._send(403, {"Content-Type": "application/xml"}, REFUSED)
                return
            fate = server.fate()
            if fate == "slow":
                self._send(503, {"Content-Type": "application/xml"}, SLOW_DOWN)
                return
            upstream = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
            upstream.request(self.command, self.path, body=body, headers=headers)
            reply = upstream.getresponse()
            data = reply.read()
            kept = {k: v for k, v in reply.getheaders() if k.lower() not in ("transfer-encoding", "connection", "date")}
            if fate == "cut":
                self._cut(reply.status, kept, data)
            else:
                self._send(reply.status, kept, data)
            upstream.close()

        def _body(self) -> bytes:
            """What came with the request; pyarrow's client sends it in chunks, without its length."""
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = b""
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return body

        def _send(self, status: int, headers: dict[str, str], data: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() != "content-length" or self.command == "HEAD":
                    self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(data)))
            elif "Content-Length" not in headers:
                self.send_header("Content-Length", "0")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)
            server.requests.append((self.command, self.path, len(data)))

        def _cut(self, status: int, headers: dict[str, str], data: bytes) -> None:
            """Half of the answer, then nothing more."""
            if len(data) > 1:
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Content-Type", headers.get("Content-Type", "text/plain"))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer

    return Handler


@contextmanager
def run_s3_server() -> Iterator[S3Server]:
    """The server, from the first to the last line of the block."""
    port = _free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server = S3Server(url="", port=port)
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(server))
    proxy.daemon_threads = True
    server.url = f"http://127.0.0.1:{proxy.server_address[1]}"
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, "moto's server ended"
                assert time.monotonic() < deadline, "moto's server does not answer"
                time.sleep(0.1)
        thread.start()
        yield server
    finally:
        proxy.shutdown()
        proxy.server_close()
        process.terminate()
        process.wait(10)
