"""A replica that is killed, and replicas that are replaced, while clients keep asking: behind both proxies.

Takes minutes, so it runs with `RAY_PIPELINES_LONG_TESTS=1` only; `test_sharing.py` has the same beside jobs, behind the
Python proxy.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import httpx2
import pytest

from tests.integration.serve import live
from tests.integration.serve.conftest import haproxy
from tests.integration.serve.load import NUM_CLIENTS, RETRIABLE, Load
from tests.machine import free_port

pytestmark = pytest.mark.long

Model = Callable[[str], str]


@dataclass(frozen=True)
class Live:
    """The application of `live.py`.

    Attributes:
        url: Where it answers.
        pids: Gives the process ids of its replicas, once they are deployed with these settings, if there are some.
    """

    url: str
    pids: Callable[[str], set[int]]


@pytest.fixture(params=["python", "haproxy"])
def running(request: pytest.FixtureRequest, model: Model) -> Iterator[Live]:
    """The application behind one of the proxies."""
    folder = model("bert-classifier")
    if request.param == "python":
        from ray import serve

        yield Live(request.getfixturevalue("serve_url") + live.ROUTE_PREFIX, partial(live.pids, folder))
        serve.delete(live.NAME)
        return
    with own_serve(folder) as made:
        yield made


@contextmanager
def own_serve(folder: str) -> Iterator[Live]:
    """The application behind HAProxy, which Ray has for a whole cluster or not at all."""
    port = free_port()
    short = tempfile.TemporaryDirectory(prefix="haproxy-", dir="/tmp")  # a socket's path has at most 97 characters
    with short as files:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", **haproxy(files, True)}
        command = [sys.executable, "-m", live.__name__, str(port), folder]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True)
        assert process.stdin is not None and process.stdout is not None
        lines = process.stdout

        def pids(settings: str) -> set[int]:
            print(settings, file=process.stdin, flush=True)
            line = next(line for line in lines if line.startswith(live.PIDS))
            return {int(pid) for pid in line.split()[1:]}

        yield Live(f"http://127.0.0.1:{port}{live.ROUTE_PREFIX}", pids)
        process.communicate(timeout=120)


def test_a_killed_replica_fails_what_it_had_in_flight_and_replaced_ones_nothing(running: Live) -> None:
    before = running.pids("parameters.top_k=2")
    with Load(running.url) as load:
        load.wait_for(20)
        os.kill(min(before), signal.SIGKILL)
        after = running.pids("")
        load.wait_for(20)
        assert min(before) not in after, "another has taken its place"
        failed = load.failed
        assert failed.total() <= NUM_CLIENTS, failed
        assert set(failed) <= RETRIABLE, failed
        replaced = running.pids("parameters.top_k=1")
        load.wait_for(20)
        assert not replaced & after
        assert load.failed == failed, "a rolling update fails nothing"
    assert len(httpx2.post(running.url, json={"inputs": "Hello"}).json()[0]) == 1
