"""Submitting a job file to a Ray cluster: what is uploaded, how the cluster knows us, and how the job ended.

What goes to the cluster is the job file and this version of the package, nothing else unless a working directory is
named. Ray keeps both, and the command line, for everybody who can see the cluster's dashboard; so a job file that holds
a secret is refused: the cluster's nodes have their own (`HF_TOKEN`, AWS roles and the like).
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Secret, SecretBytes, SecretStr

import ray_pipelines
from ray_pipelines.errors import ConfigError, JobError
from ray_pipelines.job_file import read_job
from ray_pipelines.report.terminal import DEAD_LETTERS_LINE

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

__all__ = ["choose_auth_mode", "connect", "exit_status", "follow", "secrets_of", "submit"]

NOT_UPLOADED = ("**/.git/", "**/.venv/", "**/__pycache__/", "**/.env", "**/.env.*", "**/.aws/", "**/.ssh/")
POLL_S = 1.0
AGENT_TIMEOUT_S = 180.0
VARIABLE = re.compile(r"\$\{\w+\}")
PASSWORD_IN_URI = re.compile(r"[a-z][a-z0-9+.-]*://[^/@\s]*:[^/@\s]+@", re.IGNORECASE)


def choose_auth_mode(environment: Mapping[str, str], home: Path) -> Literal["token", "disabled"]:
    """What `RAY_AUTH_MODE` has to be to reach a cluster: a token is sent if there is one, unless the user says how.

    Left unset, Ray 2.60 starts clusters that demand the token of the home directory, and submits without it.

    >>> choose_auth_mode({"RAY_AUTH_TOKEN": "…"}, Path("/nobody"))
    'token'
    """
    mode = environment.get("RAY_AUTH_MODE", "").lower()
    if mode:
        return "token" if mode == "token" else "disabled"
    has_token = environment.get("RAY_AUTH_TOKEN") or environment.get("RAY_AUTH_TOKEN_PATH")
    return "token" if has_token or (home / ".ray" / "auth_token").exists() else "disabled"


def connect(address: str) -> JobSubmissionClient:
    """A client of the cluster's job server. Sets `RAY_AUTH_MODE`, which Ray reads when it is first imported.

    Args:
        address: The dashboard, e.g. `http://head:8265`.

    Raises:
        ConfigError: It is no address of a dashboard.
        JobError: Nobody answers there, or the token is missing or wrong.
    """
    if "://" not in address:
        raise ConfigError(f"--address {address}: expected a Ray dashboard such as http://head:8265.")
    os.environ["RAY_AUTH_MODE"] = choose_auth_mode(os.environ, Path.home())
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except AuthenticationError:
        sent = "a token was sent and refused" if os.environ["RAY_AUTH_MODE"] == "token" else "no token was sent"
        raise JobError(
            f"--address {address}: expected the cluster to let us in; {sent}. Set RAY_AUTH_TOKEN, or write the "
            "cluster's token to ~/.ray/auth_token (on the cluster: ray get-auth-token), and leave RAY_AUTH_MODE unset "
            "or set it to token."
        ) from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise JobError(
            f"--address {address}: expected a Ray dashboard such as http://head:8265; got {_first_line(error)} "
            "Is the cluster up, and the port forwarded?"
        ) from None


def submit(
    client: JobSubmissionClient,
    job_file: Path,
    settings: Sequence[str] = (),
    working_dir: Path | None = None,
    submission_id: str | None = None,
) -> str:
    """Uploads a job and starts it; gives its submission id.

    Args:
        client: Of `connect`.
        job_file: The job; checked here as far as it can be without the cluster's disks.
        settings: `a.b=c` settings over it.
        working_dir: A folder that holds the job file, to be uploaded with all that the job needs (own pipelines, small
            models); unset, the job file alone.
        submission_id: Name of the Ray job; unset, Ray makes one.

    Raises:
        ConfigError: The job file is wrong, holds a secret, or is not in the working directory.
        JobError: The cluster has refused the job.
    """
    job = read_job(job_file, settings)
    if found := secrets_of(job):
        raise ConfigError(
            f"{key}: expected no secret in a job that is submitted; Ray shows job files and commands to everybody who "
            "can open its dashboard. Give it to the cluster's nodes instead (HF_TOKEN, AWS_PROFILE, an instance role)."
            for key in found
        )
    with _uploaded(job_file, working_dir) as (folder, name):
        command = ["python", "-m", "ray_pipelines", "run", "--allow-dead-letters", name]
        command += [part for setting in settings for part in ("--set", setting)]
        environment = {
            "working_dir": str(folder),
            "py_modules": [str(Path(ray_pipelines.__file__).parent)],
            "excludes": list(NOT_UPLOADED),
        }
        metadata = {
            "job_file": name,
            "task": ", ".join(part.task for part in job.parts.values()),
            "ray_pipelines": ray_pipelines.__version__,
        }
        deadline_s = time.monotonic() + AGENT_TIMEOUT_S
        while True:
            try:
                job_id: str = client.submit_job(
                    entrypoint=shlex.join(command),
                    runtime_env=dict(environment),
                    metadata=metadata,
                    submission_id=submission_id,
                )
            except (RuntimeError, ValueError) as error:
                # A cluster that has just started says so for some seconds.
                if "No available agent" not in str(error) or time.monotonic() > deadline_s:
                    raise JobError(f"the cluster has refused the job: {_first_line(error)}") from None
                time.sleep(POLL_S)
            else:
                return job_id


def follow(client: JobSubmissionClient, submission_id: str) -> Iterator[str]:
    """The job's log as it grows, in pieces, until the job has ended."""
    # Ray's client tells of the end of its connection, which is that of the log.
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
    loop = asyncio.new_event_loop()
    log = client.tail_job_logs(submission_id)
    try:
        while True:
            try:
                yield loop.run_until_complete(anext(log))
            except (StopAsyncIteration, RuntimeError, OSError):
                break
    finally:
        loop.run_until_complete(log.aclose())
        loop.close()
    # A connection that breaks ends the log early: the job itself says when it has ended.
    while not client.get_job_status(submission_id).is_terminal():
        time.sleep(POLL_S)


def exit_status(client: JobSubmissionClient, submission_id: str) -> int:
    """How a job that has ended did: 0, 1, 2 or 3, as `ray-pipelines run` would have said."""
    details = client.get_job_info(submission_id)
    if details.status == "SUCCEEDED":
        lines = client.get_job_logs(submission_id).splitlines()
        return 3 if any(line.startswith(DEAD_LETTERS_LINE) for line in lines) else 0
    return 2 if details.driver_exit_code == 2 else 1


def secrets_of(model: BaseModel, where: str = "") -> list[str]:
    """The settings of a job that hold a secret, as keys such as `model.token`."""
    return list(_secrets(dict(model), where))


def _secrets(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, Secret | SecretStr | SecretBytes):
        # The name of a variable, as in `${AWS_SECRET_ACCESS_KEY}`, is none.
        if value.get_secret_value() and not VARIABLE.fullmatch(str(value.get_secret_value())):
            yield where
    elif isinstance(value, str):
        if PASSWORD_IN_URI.match(value):
            yield where
    elif isinstance(value, BaseModel | Mapping):
        for name, item in dict(value).items():
            yield from _secrets(item, f"{where}.{name}" if where else str(name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _secrets(item, where)


@contextmanager
def _uploaded(job_file: Path, working_dir: Path | None) -> Iterator[tuple[Path, str]]:
    """The folder to upload, and the job file's name in it."""
    if working_dir is not None:
        try:
            yield working_dir, job_file.resolve().relative_to(working_dir.resolve()).as_posix()
        except ValueError:
            raise ConfigError(f"--working-dir {working_dir}: expected a folder that holds {job_file}.") from None
        return
    with tempfile.TemporaryDirectory(prefix="ray-pipelines-") as folder:
        shutil.copyfile(job_file, Path(folder) / job_file.name)
        yield Path(folder), job_file.name


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(".") + "."
