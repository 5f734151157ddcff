"""What a user is told when an endpoint cannot start."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray import serve

from ray_pipelines.serve.starting import _why_not_started

CRASHED = """ray::HAProxyManager.ready()
RuntimeError: HAProxy crashed during startup: [NOTICE]   (7) : haproxy version is 2.8
[ALERT]    (7) : Binding [haproxy.cfg:45] for frontend prometheus: cannot bind socket (Address already in use)
[ALERT]    (7) : [bin/haproxy.main()] Some protocols failed to start their listeners! Exiting.
[ALERT]    (7) : a third"""


@pytest.mark.parametrize(
    ("applications", "error", "expected"),
    [
        ({"m": SimpleNamespace(message="Traceback\nValueError: no such model\n")}, "x", "the replica cannot start: Va"),
        ({}, CRASHED, "Serve cannot start: Binding [haproxy.cfg:45] for frontend prometheus: cannot bind socket"),
        ({"m": SimpleNamespace(message="")}, "a\nb", "Serve cannot start: b"),
    ],
)
def test_the_reason_is_the_replicas_or_the_proxys(
    applications: dict[str, SimpleNamespace], error: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications=applications))
    reason = _why_not_started("m", RuntimeError(error))
    assert reason.startswith(expected)
    assert "\n" not in reason and "a third" not in reason
