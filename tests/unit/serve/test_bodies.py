from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from starlette.requests import Request

from ray_pipelines.serve.bodies import Bodies, parse_form
from ray_pipelines.serve.refusals import Refused


def request(
    parts: Iterable[bytes], *, headers: dict[str, str] | None = None, then: str = "end", every_s: float = 0
) -> Request:
    """A request whose body comes in `parts`, one `every_s`, and then ends, breaks off or stalls."""
    messages: list[Any] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages.append({"type": "http.disconnect"} if then == "breaks" else {"type": "http.request", "body": b""})
    left = iter(messages[:-1] if then == "stalls" else messages)

    async def receive() -> Any:
        await asyncio.sleep(every_s)
        message = next(left, None)
        if message is None:
            await asyncio.sleep(60)
        return message

    pairs = [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    return Request({"type": "http", "headers": pairs}, receive)


async def read(bodies: Bodies, of: Request) -> bytes:
    async with bodies.body(of) as body:
        assert bodies.num_bytes >= len(body)
        return body


def refused(bodies: Bodies, of: Request) -> int:
    with pytest.raises(Refused) as error:
        asyncio.run(read(bodies, of))
    assert bodies.num_bytes == 0, "its room is free again"
    return error.value.status


def test_a_body_is_its_parts() -> None:
    bodies = Bodies(10, 100, 5)
    assert asyncio.run(read(bodies, request([b"ab", b"", b"c"]))) == b"abc"
    assert bodies.num_bytes == 0


def test_a_body_is_counted_while_it_comes_whatever_its_length_says() -> None:
    assert refused(Bodies(10, 100, 5), request([b"x" * 6, b"x" * 6])) == 413
    assert refused(Bodies(10, 100, 5), request([b"x" * 6, b"x" * 6], headers={"content-length": "3"})) == 413
    assert refused(Bodies(10, 100, 5), request([], headers={"content-length": "9" * 5000})) == 413
    for length in ("-1", "\u00b2"):
        assert asyncio.run(read(Bodies(10, 100, 5), request([b"x"], headers={"content-length": length}))) == b"x"


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    assert refused(Bodies(10, 100, 0.05), request([b"x"], then="stalls")) == 408
    assert Refused(408, "").headers()["connection"] == "close", "or what comes after is read and dropped"
    assert refused(Bodies(10, 100, 5), request([b"x"], then="breaks")) == 400


def test_a_body_has_room_for_what_has_come_and_not_for_what_it_claims() -> None:
    bodies = Bodies(10, 20, 5)

    async def main() -> None:
        claimed = {"content-length": "10"}
        idle = [asyncio.create_task(read(bodies, request([b"x"], headers=claimed, then="stalls"))) for _ in range(9)]
        await asyncio.sleep(0.05)
        assert bodies.num_bytes == 9
        assert await read(bodies, request([b"x" * 10])) == b"x" * 10
        for one in idle:
            one.cancel()

    asyncio.run(main())


def test_a_body_that_stalls_or_drips_is_ended_before_its_time() -> None:
    bodies = Bodies(1 << 20, 1 << 20, 60, pace_s=0.4)
    for parts in ([], [b"x"], [b"x" * (1 << 19)]):
        assert refused(bodies, request(parts, then="stalls")) == 408
    assert refused(bodies, request([b"x"] * 50, every_s=0.06)) == 408
    assert len(asyncio.run(read(bodies, request([b"x" * (1 << 15)] * 8, every_s=0.06)))) == 1 << 18


def test_nothing_is_unpacked() -> None:
    assert refused(Bodies(10, 100, 5), request([b"x"], headers={"content-encoding": "gzip"})) == 415


def test_bodies_beyond_the_memory_for_all_are_refused_until_there_is_room() -> None:
    bodies = Bodies(10, 15, 5)

    async def main() -> None:
        async with bodies.body(request([b"x" * 10])):
            with pytest.raises(Refused) as busy:
                await read(bodies, request([b"x" * 5, b"x"]))
            assert busy.value.status == 429 and busy.value.headers()["retry-after"] == "1"
            assert await read(bodies, request([b"x" * 5])) == b"x" * 5
        assert await read(bodies, request([b"x" * 10])) == b"x" * 10

    asyncio.run(main())


def test_forms_stay_in_memory_and_broken_ones_are_refused() -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    body = head + b"x" * (3 << 20) + b"\r\n--b--\r\n"
    form = asyncio.run(parse_form("multipart/form-data; boundary=b", body))
    assert len(asyncio.run(form["file"].read())) == 3 << 20
    assert not form["file"].file._rolled, "a file on disk"
    field = b'--b\r\nContent-Disposition: form-data; name="language"\r\n\r\n'
    for kind, broken in (
        ("multipart/form-data", body),
        ("multipart/form-data; boundary=b", field + b"x" * (2 << 20) + b"\r\n--b--\r\n"),
        ("multipart/form-data; boundary=b", (field + b"x\r\n") * 60 + b"--b--\r\n"),
        ("multipart/form-data; boundary=b; charset=punycode", field + b"a" * 99 + b"-" + b"a" * 99 + b"\r\n--b--\r\n"),
        ("multipart/form-data; boundary=b", head + b"\r\n--bb" * 2_000_000 + b"\r\n--b--\r\n"),
        ("application/json", b"{}"),
        (None, b""),
    ):
        with pytest.raises(Refused) as error:
            asyncio.run(parse_form(kind, broken))
        assert error.value.status == 400
