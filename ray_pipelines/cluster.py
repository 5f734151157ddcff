"""Which Ray cluster to connect to, for jobs and endpoints alike."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from typing import Any

from ray_pipelines.errors import ConfigError

__all__ = ["connect", "living_cluster"]

CONNECT_S = 10.0


def connect(**options: Any) -> None:
    """Connects to a cluster, or starts a quiet local one, unless this process is connected.

    A handler of SIGTERM stays: Ray's own ends a local cluster under the driver's feet, which then aborts.

    Args:
        **options: Of `ray.init`.

    Raises:
        ConfigError: `RAY_ADDRESS` names a cluster that does not answer, or not to this process; Ray itself would try
            for many minutes.
    """
    import ray

    if ray.is_initialized():
        return
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(living_cluster(), logging_level=logging.ERROR, **options)
    except ConnectionError as error:
        raise ConfigError(
            f"RAY_ADDRESS: {str(error).rstrip('.')}, though something listens there. Look whether it is a Ray "
            f"cluster of version {ray.__version__}, and whether it wants a token (RAY_AUTH_MODE, RAY_AUTH_TOKEN)."
        ) from None
    if callable(on_sigterm) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)


def living_cluster() -> str | None:
    """What to call `ray.init` with: None for what it finds itself, `local` where that has ended without a word.

    A machine notes its cluster in a file, which a cluster that is killed leaves behind.

    Raises:
        ConfigError: `RAY_ADDRESS` names a cluster that does not answer, or is no address of one.
    """
    from ray._private.services import find_bootstrap_address

    named = os.environ.get("RAY_ADDRESS")
    address = named if named and named != "auto" else find_bootstrap_address(None)
    if named and named not in ("auto", "local") and (":" not in named or named.startswith(("http://", "https://"))):
        raise ConfigError(
            f"RAY_ADDRESS: expected HOST:PORT of a cluster, such as head:6379; got {named!r}. A dashboard's address is "
            "for `ray-pipelines submit --address`."
        )
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        return None
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        if named:
            reason = error.strerror or str(error)
            raise ConfigError(
                f"RAY_ADDRESS: no cluster answers at {address} ({reason}). Unset it to run here."
            ) from None
        logging.getLogger(__name__).warning("The cluster at %s has ended; a local one is started.", address)
        return "local"
    return None
