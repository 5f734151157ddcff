"""Starting an endpoint beside whatever else Serve runs on the cluster, and taking it away.

Serve listens on one address, as whoever came first has said, and takes whatever is deployed under a name as the next
version of what has it. So what was asked for is compared with what there is before anything is deployed.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import sys
import threading
from collections.abc import Callable

from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

from ray_pipelines.cluster import connect
from ray_pipelines.errors import ConfigError, JobError
from ray_pipelines.nodes import cluster_nodes
from ray_pipelines.serve.application import DEPLOYMENT, bind
from ray_pipelines.serve.config import ServeConfig, Serving
from ray_pipelines.serve.room import check_fits, waiting_aloud

__all__ = ["run_until_interrupted", "start"]

HOST, PORT = "127.0.0.1", 8000
OWN_ERROR = re.compile(r"^ray_pipelines\.errors\.\w+: ")
MAX_REASON_CHARS = 500
FREE = (ApplicationStatus.DELETING, ApplicationStatus.NOT_STARTED)
"""States of applications that have neither their name nor their path any more."""


def start(serving: Serving, *, host: str | None = None, port: int | None = None) -> str:
    """Starts the application on the connected cluster, or on a local one, and waits until it answers.

    Called again, as a cell of a notebook is, it puts the new version in the place of the application of that name.

    Args:
        serving: What to serve.
        host, port: Where to listen; 127.0.0.1 and 8000, or where Serve listens if it runs already.

    Returns:
        The URL of the endpoint.

    Raises:
        ConfigError: Serve runs already, and listens elsewhere, or the path is another application's.
        ModelLoadError: The model's name cannot be resolved.
        ResourceError: The cluster can never hold the replicas.
        JobError: A replica cannot load the model, or Serve cannot start. Nothing of it stays, but for the version
            that was there before.
    """
    url, _ = _started(serving, host, port, replaces=True)
    return url


def run_until_interrupted(
    serving: Serving, host: str | None, port: int | None, on_start: Callable[[str], None]
) -> None:
    """Serves until Ctrl-C, or what the command line makes of SIGTERM, and takes the application away then.

    Args:
        serving: What to serve.
        host, port: Where to listen, as `start` takes them.
        on_start: Called with the URL once the endpoint answers.

    Raises:
        ConfigError: `RAY_ADDRESS` names a cluster that does not answer, the name is another application's, or as
            `start` raises it.
        ModelLoadError: The model's name cannot be resolved.
        ResourceError: The cluster can never hold the replicas.
        JobError: As `start` raises it.
    """
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    connect(log_to_driver=False)
    url, end = _started(serving, host, port, replaces=False)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            on_start(url)
            threading.Event().wait()
    finally:
        # Ray tells of failures of the cluster on the standard output: here, of a controller that ends as it is told to.
        with contextlib.redirect_stdout(sys.stderr):
            end.close()


def _started(
    serving: Serving, host: str | None, port: int | None, *, replaces: bool
) -> tuple[str, contextlib.ExitStack]:
    """The URL of the application, and what takes away all that was started; a start that fails does so itself."""
    connect()
    check_fits(serving, cluster_nodes(beside_serve=False))
    application = bind(serving)
    options = serving.serve
    with contextlib.ExitStack() as end:
        try:
            if _get_global_client(raise_if_no_controller_running=False) is None:
                end.callback(_end_serve)
                serve.start(http_options={"host": host or HOST, "port": port or PORT})
            address = _address(host, port)
            _check_is_free(options, replaces)
            if not replaces or options.name not in serve.status().applications:
                end.callback(serve.delete, options.name)
            with waiting_aloud(serving, f"ServeReplica:{options.name}:{DEPLOYMENT}"):
                serve.run(application, name=options.name, route_prefix=options.route_prefix)
        except (RuntimeError, RayServeException) as error:
            raise JobError(f"{serving.task}: {_why_not_started(options.name, error)}") from error
        return f"http://{address}{options.route_prefix.rstrip('/')}", end.pop_all()


def _end_serve() -> None:
    """Ends Serve, unless others have applications on it by now."""
    if not serve.status().applications:
        serve.shutdown()


def _address(host: str | None, port: int | None) -> str:
    """Where Serve listens.

    Raises:
        ConfigError: Not where it was asked to.
    """
    has = _get_global_client().http_config
    if host not in (None, has.host) or port not in (None, has.port):
        raise ConfigError(
            f"--host, --port: expected {has.host}:{has.port}, where Serve listens on this cluster already; got "
            f"{host or has.host}:{port or has.port}. Leave them out, or end Serve with all its applications first: "
            "serve shutdown."
        )
    return f"{has.host}:{has.port}"


def _check_is_free(options: ServeConfig, replaces: bool) -> None:
    """Looks whether the name and the path are nobody's; of a name that failed to start, another may take the place.

    Args:
        options: The name and the path.
        replaces: An application of this name is replaced, whatever its state.

    Raises:
        ConfigError: They are somebody's.
    """
    problems = []
    for name, other in _get_global_client().get_serve_details()["applications"].items():
        status = ApplicationStatus(other["status"])
        if name == options.name and not replaces and status not in (*FREE, ApplicationStatus.DEPLOY_FAILED):
            problems.append(
                f'serve.name: expected one that no application has; got "{name}", which is {status.value}. Choose '
                "another, or end that one first."
            )
        if name != options.name and status not in FREE and other["route_prefix"] == options.route_prefix:
            problems.append(
                f'serve.route_prefix: expected a path that no other application has; got "{options.route_prefix}", '
                f'which "{name}" has. Choose another, or end that one first.'
            )
    if problems:
        raise ConfigError(problems)


def _why_not_started(name: str, error: Exception) -> str:
    """The replica's reason, or else that of Serve, whose proxy's alerts stand among much else."""
    found = serve.status().applications.get(name)
    if found is not None:
        texts = [found.message, *(deployment.message for deployment in found.deployments.values())]
        if reasons := [_last_cause(text) for text in texts if text.strip()]:
            return f"the replica cannot start: {reasons[-1]}"
    lines = str(error).strip().splitlines()
    alerts = [line.split(" : ")[-1].strip() for line in lines if "[ALERT]" in line]
    return f"Serve cannot start: {'; '.join(alerts[:2]) or lines[-1]}"


def _last_cause(text: str) -> str:
    """The exception at the end of the last traceback in a text, or else the text's end, in one line.

    >>> _last_cause('Error:\\n  File "a.py", line 1, in f\\n    g()\\nValueError: no such\\nmodel')
    'ValueError: no such model'
    """
    lines = text[text.rfind("\n  File ") + 1 :].splitlines()
    causes = list(itertools.dropwhile(lambda line: line.startswith(" "), lines)) if "\n  File " in text else lines[-1:]
    reason = OWN_ERROR.sub("", " ".join(line.strip() for line in causes if line.strip()))
    return reason if len(reason) <= MAX_REASON_CHARS else f"{reason[: MAX_REASON_CHARS - 1]}…"
