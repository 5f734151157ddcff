"""Bodies of requests, within bounds of size, of time, and of the memory that all of them take together.

Nothing is written to disk, and nothing is unpacked: a body is as large as what was sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ray_pipelines.serve.refusals import Refused

__all__ = ["Bodies", "parse_form"]

MAX_FIELD_BYTES, MAX_FIELDS, MAX_FILES = 1 << 20, 50, 1
PACE_BYTES, PACE_S = 1 << 14, 10.0
"""A body brings so many bytes, or its end, in so many seconds: one that stalls does not keep its room for long."""


class Bodies:
    """Reads bodies while they come.

    Args:
        max_bytes: Of one body.
        max_total_bytes: Of all that are at work at once.
        timeout_s: How long one may take to arrive.
        pace_s: How long each `PACE_BYTES` of it may take.
    """

    def __init__(self, max_bytes: int, max_total_bytes: int, timeout_s: float, pace_s: float = PACE_S) -> None:
        self.max_bytes = max_bytes
        self.max_total_bytes = max(max_bytes, max_total_bytes)
        self.timeout_s = timeout_s
        self.pace_s = pace_s
        self.num_bytes = 0

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The body; what has come of it keeps its room until the context ends, what is only claimed has none.

        Raises:
            Refused: 408: it comes too slowly; 413: it is too long; 415: it is packed; 429: there is no room.
        """
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Refused(415, "The body is packed; expected it without a content encoding.")
        length = request.headers.get("content-length", "")
        self._check_length(int(length[:19]) if length.isdecimal() else 0)
        parts: list[bytes] = []
        num_bytes = 0
        try:
            async for part in self._parts(request):
                self._check_length(num_bytes + len(part))
                if self.num_bytes + len(part) > self.max_total_bytes:
                    raise Refused(429, "The endpoint is busy; try again later.", retry_after_s=1)
                parts.append(part)
                num_bytes += len(part)
                self.num_bytes += len(part)
            body = b"".join(parts)
            parts.clear()
            yield body
        finally:
            self.num_bytes -= num_bytes

    async def _parts(self, request: Request) -> AsyncIterator[bytes]:
        now_s = asyncio.get_running_loop().time
        deadline_s, pace_ends_s, num_bytes = now_s() + self.timeout_s, now_s() + self.pace_s, 0
        is_last = False
        while not is_last:
            try:
                left_s = min(deadline_s, pace_ends_s) - now_s()
                message = await asyncio.wait_for(request.receive(), max(0, left_s))
            except asyncio.TimeoutError:
                raise Refused(408, "The body did not come in time.") from None
            if message["type"] == "http.disconnect":
                raise Refused(400, "The body is not complete.")
            is_last, part = not message.get("more_body", False), message.get("body", b"")
            num_bytes += len(part)
            if num_bytes >= PACE_BYTES:
                pace_ends_s, num_bytes = now_s() + self.pace_s, 0
            yield part

    def _check_length(self, num_bytes: int) -> None:
        if num_bytes > self.max_bytes:
            raise Refused(413, f"The body has more than {self.max_bytes:,} bytes.")


class _InMemory(MultiPartParser):
    """Keeps files in memory: they are no longer than their body, which is there already."""

    spool_max_size = 1 << 62


async def parse_form(content_type: str | None, body: bytes) -> Any:
    """The fields and the file of a multipart body.

    Raises:
        Refused: 400: it is none, or not in UTF-8: Python has codecs that take minutes for a megabyte (`punycode`).
    """
    if not (content_type or "").lower().startswith("multipart/form-data"):
        raise Refused(400, "expected multipart/form-data with a file.")
    _, options = parse_options_header(content_type)
    if options.get(b"charset", b"utf-8").lower() != b"utf-8":
        raise Refused(400, "expected a form in UTF-8.")
    # The parser takes time for each, also for those that turn out to be none.
    if body.count(b"\r\n--" + options.get(b"boundary", b"")) > MAX_FIELDS + MAX_FILES:
        raise Refused(400, "The form has too many parts.")

    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    request = Request({"type": "http", "headers": [(b"content-type", (content_type or "").encode("latin-1"))]})
    try:
        parser = _InMemory(
            request.headers, whole(), max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
        )
        form: FormData = await parser.parse()
    except (MultiPartException, HTTPException, ValueError, KeyError, LookupError, AttributeError, RuntimeError):
        raise Refused(400, "The form cannot be read.") from None
    return form
