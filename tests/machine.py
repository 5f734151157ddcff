"""What tests ask the machine: free ports, the processes that run, and what those that they start inherit."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

__all__ = [
    "NICENESS",
    "PARENT",
    "SESSION",
    "command_line",
    "free_port",
    "free_ports",
    "heed_ctrl_c",
    "inherited",
    "processes",
]

NICENESS = "RAY_worker_niceness"
"""Name of the variable that says how nice Ray's workers are."""
PARENT, SESSION = 1, 3
"""Places in what `processes` gives of each: who started it, and the leader of its session."""


def heed_ctrl_c() -> None:
    """Before a command is begun: it heeds Ctrl-C, also where the tests themselves run in the background of a shell."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def inherited(*dropped: str) -> dict[str, str]:
    """The environment for a program of a test that has a Ray of its own, without the names that begin like these.

    How nice Ray's workers are is always kept: they would give way to all that the other process of the tests does.
    """
    kept = (name for name in os.environ if name == NICENESS or not name.startswith(dropped))
    return {name: os.environ[name] for name in kept}


def free_ports(number: int) -> list[int]:
    """Ports that nobody has at the moment, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    return free_ports(1)[0]


def processes() -> Iterator[tuple[int, list[str]]]:
    """Each process: its id, and the fields of /proc/ID/stat after its name."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(entry.name), (entry / "stat").read_text().rpartition(")")[2].split()


def command_line(pid: int) -> bytes:
    """The command line of a process, which Ray sets to what it does."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
