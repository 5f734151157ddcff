"""One run at a time in a folder: a file that says who writes, renewed while it does.

A run that finds another's lease looks whether that one still lives: on the same machine by its process; anywhere else
by waiting a while for the next renewal. No clocks are compared. On one machine a local folder is locked while a run
looks and takes it, so that of two that begin at the same moment one gets it. A run that was paused for so long that
another has taken its place notices at its next renewal and gives up. Even two runs at once could not double a row, as
the ledger tells (`resume.py`); the lease saves their work.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ray_pipelines.data.folder import Folder
from ray_pipelines.errors import ConfigError, JobError, StorageError
from ray_pipelines.validation import model_of_json

__all__ = ["LEASE", "Lease", "hold_lease"]

LEASE = "_run/lease.json"
RENEWAL_S = 5.0
PATIENCE_S = 15.0
"""How long a lease of another machine must stay as it is to be taken for dead."""
SETTLING_S = 0.5
"""After this time a lease that another machine wrote at the same moment is seen: the last one of them holds."""
_held: set[str] = set()
"""Tokens of the leases that this process holds; others that it has written could not be removed when they ended."""


class Holder(BaseModel, extra="allow", frozen=True):
    """What a lease says of who writes; which of several, and whether it still does."""

    run_id: str
    token: str
    machine: str
    host: str
    pid: int
    process_start: str | None

    def __str__(self) -> str:
        """A lease for people."""
        return f"run {self.run_id} (process {self.pid} on {self.host})"


class Lease:
    """A lease that this process holds.

    Args:
        folder: The folder that is written to.
        run_id: What the holder calls itself.
        clock: Seconds; an argument for tests.
    """

    def __init__(self, folder: Folder, run_id: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self.token = uuid.uuid4().hex
        self._me = {"run_id": run_id, "token": self.token, "started": time.time(), **_this_process()}
        self._clock = clock
        self._renewals = 0
        self._renewed_s = clock()
        self._lost_to: Holder | str | None = None
        self._released = threading.Event()
        self._lock = threading.Lock()

    def write(self) -> None:
        """Writes the lease anew."""
        self._renewals += 1
        _held.add(self.token)
        self._folder.write_json(LEASE, {**self._me, "renewals": self._renewals})
        self._renewed_s = self._clock()

    def is_mine(self) -> bool:
        """Whether nobody else has taken the folder; one who took an old lease may have ended since."""
        found = _holder(self._folder)
        if found is None and self._is_old():
            self._lost_to = "run that has ended"
        if found is not None and found.token != self.token:
            self._lost_to = found
        return self._lost_to is None

    def check(self) -> None:
        """Raises if another run has taken the folder, or may have: a lease that has become old is renewed first.

        Raises:
            ConfigError: The lease is damaged.
            JobError: It has.
            StorageError: The folder cannot be reached to see.
        """
        if self._is_old():
            try:
                self.renew()
            except StorageError as error:
                raise StorageError(f"the lease could not be renewed for {self._age_s():.0f} s: {error}") from None
        if self._lost_to is not None:
            raise JobError(
                f"write.path: {self._folder.path} was taken over by {self._lost_to}, as this run did not "
                "renew its lease in time. What was written stays; run it again when the other has ended."
            )

    def renew(self) -> bool:
        """Writes the lease anew unless another run has taken the folder; gives whether it has not."""
        with self._lock:
            if self._released.is_set():
                return False
            if self.is_mine():
                self.write()
            return self._lost_to is None

    def renew_until_released(self) -> None:
        """Renews the lease every few seconds; ends when it is released or lost."""
        while not self._released.wait(RENEWAL_S):
            try:
                if not self.renew():
                    return
            except (StorageError, ConfigError):
                # A store that cannot be reached for a while, or a lease that somebody has damaged: the next renewal may
                # succeed, and `check` knows how old the lease is.
                continue

    def release(self) -> None:
        """Ends the renewals and removes a lease that was written; one out of reach is left to the next run."""
        self._released.set()
        # A renewal that has begun must not write it anew afterwards.
        with self._lock, suppress(StorageError, ConfigError):
            _held.discard(self.token)
            if self._renewals and self.is_mine():
                self._folder.remove([LEASE])

    def _is_old(self) -> bool:
        """Whether another machine may have taken the lease for that of a dead process."""
        return self._age_s() > PATIENCE_S

    def _age_s(self) -> float:
        return self._clock() - self._renewed_s


@contextmanager
def hold_lease(folder: Folder, run_id: str, sleep: Callable[[float], None] = time.sleep) -> Iterator[Lease]:
    """Holds the lease of a folder while the block runs.

    Args:
        folder: The folder to write to.
        run_id: What the holder calls itself.
        sleep: Waits; an argument for tests.

    Raises:
        ConfigError: Another run writes to the folder, or this one cannot.
        StorageError: The storage fails in the block.
    """
    lease = Lease(folder, run_id)
    try:
        with folder.locked():
            _wait_until_free(folder, sleep)
            _take(lease, folder, sleep)
        threading.Thread(target=lease.renew_until_released, daemon=True).start()
        yield lease
    except StorageError as error:
        raise StorageError(f"{error} What is written stays: the same command goes on from here.") from error
    finally:
        lease.release()


def _take(lease: Lease, folder: Folder, sleep: Callable[[float], None]) -> None:
    try:
        lease.write()
    except StorageError as error:
        raise ConfigError(f"write.path: {error}") from None
    if not folder.is_local:
        sleep(SETTLING_S)
    if not lease.is_mine():
        raise ConfigError(f"write.path: {folder.path} was taken by another run at the same moment. Choose another.")


def _holder(folder: Folder) -> Holder | None:
    """Who holds the lease of a folder."""
    remedy = "Remove it if no other run writes there."
    return folder.read_as(LEASE, partial(model_of_json, model=Holder), remedy)


def _wait_until_free(folder: Folder, sleep: Callable[[float], None]) -> None:
    found = _holder(folder)
    if found is None:
        return
    here = _this_process()
    if found.machine and found.machine == here["machine"]:
        is_alive = _start_of_process(found.pid) == found.process_start
        if is_alive and (found.pid != here["pid"] or found.token in _held):
            raise _taken(folder, found)
        return
    sleep(PATIENCE_S)
    if _holder(folder) not in (None, found):
        raise _taken(folder, found)


def _taken(folder: Folder, found: Holder) -> ConfigError:
    return ConfigError(
        f"write.path: {folder.path} is being written to by {found}. Wait until it ends, or choose another folder."
    )


def _this_process() -> dict[str, Any]:
    """What tells this process from all others, on machines that say so."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        machine = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        machine = ""
    pid = os.getpid()
    return {"host": socket.gethostname(), "machine": machine, "pid": pid, "process_start": _start_of_process(pid)}


def _start_of_process(pid: int) -> str | None:
    """When a process began, in ticks since the machine did; None if there is no such process, or it is a zombie."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if after_name[0] == "Z" else after_name[19]
