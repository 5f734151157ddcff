"""Fetching a client's URL from a host that the operator allows, and from nowhere else.

Off unless `serve.allowed_hosts` names hosts. The name is resolved once, every address must be public, and the
connection goes to exactly that address, so that a name cannot change between check and use. No redirects.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from ray_pipelines.serve.refusals import Refused

__all__ = ["bounded", "fetcher"]

TIMEOUT_S, REQUEST_S = 5.0, 30.0
"""Of one URL, and of all that one request names."""
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""Stands for the IPv4 address in its last 32 bits."""


def fetcher(
    allowed_hosts: Collection[str],
    max_bytes: int,
    resolve: Callable[[str, int], list[str]] | None = None,
    allow_private: bool = False,
) -> Callable[[str], bytes] | None:
    """A function from an allowed URL to its bytes; None if no host is allowed.

    Args:
        allowed_hosts: Exact names of hosts.
        max_bytes: What is fetched at most.
        resolve: Gives the addresses of a host and port; the system's resolver if None.
        allow_private: Also connect to addresses that are not public, such as this machine's in a test.
    """
    if not allowed_hosts:
        return None
    hosts = {host.lower().rstrip(".") for host in allowed_hosts}

    def fetch(url: str) -> bytes:
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise Refused(422, "The URL cannot be read.") from None
        host = (parts.hostname or "").lower().rstrip(".")
        if parts.scheme not in ("http", "https") or host not in hosts or parts.username or parts.password:
            raise Refused(422, "The URL's host is not among those that this endpoint may fetch from.")
        try:
            addresses = (resolve or _addresses)(host, port)
        except OSError:
            raise Refused(422, "The URL's host cannot be found.") from None
        if not addresses or not (allow_private or all(_is_public(one) for one in addresses)):
            raise Refused(422, "The URL's host has an address that is not public.")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return _get(parts.scheme, host, addresses[0], port, path, max_bytes)

    return fetch


def bounded(fetch: Callable[[str], bytes], max_bytes: int) -> Callable[[str], bytes]:
    """The same for all URLs of one request, which bring no more than a body may, in no more than `REQUEST_S`.

    Args:
        fetch: Of `fetcher`.
        max_bytes: Of all of them together.
    """
    num_bytes, until_s = 0, time.monotonic() + REQUEST_S

    def fetch_one(url: str) -> bytes:
        nonlocal num_bytes
        if time.monotonic() > until_s:
            raise Refused(422, "The URLs' files do not come in time.")
        data = fetch(url)
        num_bytes += len(data)
        if num_bytes > max_bytes:
            raise Refused(413, f"The URLs' files have more than {max_bytes:,} bytes together.")
        return data

    return fetch_one


def _is_public(address: str) -> bool:
    """Whether an address is one host's on the internet; one that stands for an IPv4 address, as that is.

    >>> [_is_public(one) for one in ("93.184.216.34", "10.0.0.1", "64:ff9b::10.0.0.1", "2002:a00:1::", "ff0e::1")]
    [True, False, False, False, False]
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else ip.ipv4_mapped or ip.sixtofour
        if inner is not None:
            return _is_public(str(inner))
        return ip in GLOBAL_UNICAST and ip.is_global
    return ip.is_global and not ip.is_multicast


def _addresses(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[4][0]) for address in found]


def _get(scheme: str, host: str, address: str, port: int, path: str, max_bytes: int) -> bytes:
    import httpx2

    shown = f"[{address}]" if ":" in address else address
    headers = {"host": host if port in (80, 443) else f"{host}:{port}", "user-agent": "ray-pipelines"}
    data, deadline_s = bytearray(), time.monotonic() + 2 * TIMEOUT_S
    try:
        with (
            httpx2.Client(timeout=TIMEOUT_S, follow_redirects=False, trust_env=False) as client,
            client.stream(
                "GET", f"{scheme}://{shown}:{port}{path}", headers=headers, extensions={"sni_hostname": host}
            ) as response,
        ):
            if response.status_code != 200:
                raise Refused(422, "The URL did not answer with a file.")
            for part in response.iter_bytes():
                data += part
                if time.monotonic() > deadline_s:
                    raise Refused(422, "The URL cannot be fetched in time.")
                if len(data) > max_bytes:
                    raise Refused(413, f"The URL's file has more than {max_bytes:,} bytes.")
    except httpx2.HTTPError:
        raise Refused(422, "The URL cannot be fetched.") from None
    return bytes(data)
