"""Nodes of a Ray cluster on this machine, each a `ray start` with a folder, ports and an environment of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.machine import PARENT, command_line, free_ports, processes

RAY = Path(sys.executable).parent / "ray"
STARTED = "Ray runtime started"
WAITING, GO = "wait: ", "go"
"""How the text of a row begins that waits, and the name of the note that lets it go on (`watched_pipelines.py`)."""
AT_ONCE = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
"""A head that is told to end does so, rather than wait half a minute for what runs on it."""


class RayNode:
    """A node that is starting, or has started.

    Args:
        folder: Where it keeps its files; short, as sockets are among them. On one machine, nodes that share a folder
            unpack what is uploaded over each other.
        arguments: Of `ray start`.
        environment: Of its processes, and so of the workers on it.

    Attributes:
        metrics_port: Where it exports metrics.
    """

    def __init__(self, folder: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        # Agents of other clusters on this machine may have Ray's own ports.
        agent, self.metrics_port = free_ports(2)
        command = [str(RAY), "start", *arguments, "--block", "--disable-usage-stats", f"--temp-dir={folder}"]
        command += [f"--metrics-export-port={self.metrics_port}", f"--dashboard-agent-listen-port={agent}"]
        command += ["--object-store-memory=200000000"]
        self.process: subprocess.Popen[str] = subprocess.Popen(
            command, env=dict(environment) | AT_ONCE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def wait(self) -> None:
        """Waits until it has started."""
        assert self.process.stdout is not None
        seen = ""
        for line in self.process.stdout:
            seen += line
            if STARTED in line:
                threading.Thread(target=self.process.stdout.read, daemon=True).start()
                return
        raise AssertionError(seen)

    def kill_raylet(self) -> None:
        """Kills the raylet with SIGKILL, as a machine that goes without a word."""
        [raylet] = [
            pid
            for pid, fields in processes()
            if int(fields[PARENT]) == self.process.pid and b"raylet/raylet" in command_line(pid)
        ]
        os.kill(raylet, signal.SIGKILL)

    def stop(self) -> None:
        """Ends it."""
        self.process.terminate()

    def join(self) -> None:
        """Waits until it has ended."""
        self.process.wait(timeout=60)


def wait_until(is_so: Callable[[], bool], running: Any = None, timeout_s: float = 300) -> None:
    """Waits until something is so, as while a job runs.

    Args:
        is_so: Asked now and then.
        running: Future of the job, which must not end before; None if there is none.
        timeout_s: Seconds after which the test fails.
    """
    until_s = time.monotonic() + timeout_s
    while not is_so():
        assert running is None or not running.done(), f"the job ended too early: {running.result()}"
        assert time.monotonic() < until_s, "nothing happens"
        time.sleep(0.1)
