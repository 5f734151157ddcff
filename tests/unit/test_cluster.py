"""Which cluster a job connects to, where one is named or noted that is no more."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray._common.utils import get_ray_address_file

import ray_pipelines as rp
from ray_pipelines.cluster import connect, living_cluster


@pytest.fixture
def port() -> Iterator[int]:
    """One at which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_named_cluster_must_answer(monkeypatch: pytest.MonkeyPatch, port: int, closed_port: int) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed_port}")
    with pytest.raises(rp.ConfigError, match=rf"^RAY_ADDRESS: no cluster answers at 127\.0\.0\.1:{closed_port} \("):
        living_cluster()
    for address in (f"127.0.0.1:{port}", "local", f"ray://127.0.0.1:{closed_port}"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert living_cluster() is None


@pytest.mark.parametrize("address", ["head", "http://head:8265", "https://head:8265"])
def test_what_is_no_address_of_a_cluster_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(rp.ConfigError, match=f"expected HOST:PORT of a cluster, such as head:6379; got '{address}'"):
        living_cluster()


def test_a_noted_cluster_that_has_ended_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, port: int, closed_port: int
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    note = Path(get_ray_address_file(None))
    assert tmp_path in note.parents
    assert living_cluster() is None
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(f"127.0.0.1:{port}")
    assert living_cluster() is None
    note.write_text(f"127.0.0.1:{closed_port}")
    assert living_cluster() == "local"


def test_a_cluster_that_does_not_let_this_process_in_is_named(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at head:6379.")

    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", refuse)
    with pytest.raises(rp.ConfigError, match=r"^RAY_ADDRESS: Failed to connect .* at head:6379, though .* a token"):
        connect()
