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


FAILED = """The deployment failed to start 3 times in a row. See controller logs for details. Error:
ray::ServeReplica:m:pipeline.initialize_and_get_metadata() (pid=9815, ip=192.0.2.2)
  File "replica.py", line 1928, in initialize
    raise RuntimeError(traceback.format_exc()) from None
RuntimeError: Traceback (most recent call last):
  File "load.py", line 178, in load_pipeline
    pipe = transformers.pipeline(task.name)
           ^^^^^^^^^^^^^^^^^^^^
"""
UPDATE = "Failed to update the deployments ['pipeline']."


def application(message: str, deployment: str = "") -> dict[str, SimpleNamespace]:
    return {"m": SimpleNamespace(message=message, deployments={"pipeline": SimpleNamespace(message=deployment)})}


@pytest.mark.parametrize(
    ("applications", "expected"),
    [
        (application(UPDATE, FAILED + "a.SafetensorError: bad header"), "a.SafetensorError: bad header"),
        (
            application(UPDATE, FAILED + "ImportError: no package\n\n  Install it.\n"),
            "ImportError: no package Install it.",
        ),
        (application(UPDATE, FAILED + "ray_pipelines.errors.ConfigError: got none."), "got none."),
        (application("", "The actor died.\nIts worker was killed."), "Its worker was killed."),
        (application("no such model"), "no such model"),
    ],
)
def test_the_reason_is_the_replicas_last_cause(
    applications: dict[str, SimpleNamespace], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications=applications))
    assert _why_not_started("m", RuntimeError("x")) == f"the replica cannot start: {expected}"


def test_a_long_reason_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    applications = application(UPDATE, FAILED + "ValueError: " + "x" * 10_000)
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications=applications))
    assert len(_why_not_started("m", RuntimeError("x"))) < 600


@pytest.mark.parametrize(
    ("applications", "error", "expected"),
    [
        ({}, CRASHED, "Serve cannot start: Binding [haproxy.cfg:45] for frontend prometheus: cannot bind socket"),
        (application(""), "a\nb", "Serve cannot start: b"),
    ],
)
def test_the_reason_is_the_proxys(
    applications: dict[str, SimpleNamespace], error: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications=applications))
    reason = _why_not_started("m", RuntimeError(error))
    assert reason.startswith(expected)
    assert "\n" not in reason and "a third" not in reason
