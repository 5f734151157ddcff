"""Every error that this package raises or records, on one screen.

    RayPipelinesError
    ├── ConfigError          the job file or the arguments are wrong              exit status 2
    ├── JobError             the job was right, but it failed                     exit status 1
    │   ├── ModelLoadError   a model, tokenizer or processor could not be loaded
    │   ├── ResourceError    the cluster cannot hold the plan
    │   ├── StorageError     what was to be read or written cannot be reached
    │   └── TooManyErrors    more rows failed than `max_error_rate` or `max_errors` allow
    └── RowError             one row failed: its dead letter (a value, or raised on request)

A failure of one row never leaves the row: `attempt` turns it into a `RowError`, which travels beside the results. The
small exceptions below `InvalidRow` name the reasons that this package itself finds; they only ever become the `type`
of a `RowError`.

Messages read `<where>: expected <what>; got <value>. <what to do>`.
"""

from __future__ import annotations

import logging
import signal
import traceback
from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

__all__ = [
    "ConfigError",
    "InvalidInput",
    "InvalidRow",
    "JobError",
    "MediaError",
    "ModelLoadError",
    "RayPipelinesError",
    "ResourceError",
    "RowError",
    "RowTimeout",
    "RowTooLarge",
    "Stage",
    "StorageError",
    "TooManyErrors",
    "WorkerKilled",
    "attempt",
]

logger = logging.getLogger(__name__)

Stage = Literal["read", "decode", "preprocess", "forward", "postprocess", "write"]
T = TypeVar("T")

MAX_MESSAGE_CHARS = 500


class RayPipelinesError(Exception):
    """Base of all errors of this package.

    Attributes:
        exit_status: What a command ends with that this error ends.
    """

    exit_status = 1


class ConfigError(RayPipelinesError, ValueError):
    """The job file or the arguments are wrong; `problems` lists everything that was found.

    Attributes:
        problems: One line for each problem, each starting with the key that is wrong.
    """

    exit_status = 2

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


class JobError(RayPipelinesError, RuntimeError):
    """The job file was right, but the job failed."""


class ModelLoadError(JobError):
    """A model, tokenizer or processor could not be loaded."""


class ResourceError(JobError):
    """The cluster cannot hold the plan: starting it would hang."""


class StorageError(JobError):
    """What was to be read or written cannot be reached, or there is no room for it."""


class TooManyErrors(JobError):
    """More rows failed than `max_error_rate` or `max_errors` allow."""


class InvalidRow(ValueError):
    """A row cannot be processed; base of the reasons that this package finds itself."""


class InvalidInput(InvalidRow):
    """A value has the wrong type or is missing."""


class MediaError(InvalidRow):
    """An image or a recording cannot be decoded, or is over a decode limit."""


class RowTooLarge(InvalidRow):
    """A row is larger than the model or the device can take."""


class RowTimeout(InvalidRow):
    """A row, or the batch it shares a forward with, takes longer than it may."""

    @classmethod
    def after(cls, timeout_s: float | None) -> RowTimeout:
        """The error that names the limit."""
        limit = "the limit" if timeout_s is None else f"{timeout_s:g} s"
        return cls(f"row: takes longer than {limit} in this step (workers.timeout_s).")


class WorkerKilled(InvalidRow):
    """A row ended its worker's process, and did so again when it was tried by itself."""

    def __init__(self) -> None:
        super().__init__(
            "row: ends its worker's process each time it is tried (a crash of native code, or more memory than the "
            "machine has)."
        )


class RowError(RayPipelinesError):
    """One row failed: what a dead letter says.

    Attributes:
        stage: Where it failed: `read`, `decode`, `preprocess`, `forward`, `postprocess` or `write`.
        type: Name of the error's class, e.g. `MediaError`.
        message: The reason, one line of at most 500 characters.
    """

    def __init__(self, stage: Stage, type: str, message: str) -> None:
        self.stage: Stage = stage
        self.type = type
        self.message = message
        super().__init__(f"{stage}: {type}: {message}")

    @classmethod
    def from_exception(cls, stage: Stage, error: BaseException) -> RowError:
        """The dead letter for `error`; the exception itself stays reachable as `__cause__`."""
        lines = [line.strip() for line in _text_of(error).splitlines() if line.strip()]
        message = " ".join(lines) or type(error).__name__
        if len(message) > MAX_MESSAGE_CHARS:
            message = message[: MAX_MESSAGE_CHARS - 1] + "…"
        row_error = cls(stage, type(error).__name__, message)
        row_error.__cause__ = error
        logger.debug("A row has failed at its step %s.", stage, exc_info=error)
        link: BaseException | None = error
        while link is not None and link.__traceback__ is not None:
            # The frames' variables would keep the batch and its activations in the device's memory. And frames know
            # their callers, one of whom holds the row's error: a circle that only the garbage collector opens, late.
            traceback.clear_frames(link.__traceback__)
            link.__traceback__ = None
            link = link.__cause__ or link.__context__
        return row_error

    def as_dict(self) -> dict[str, str]:
        """The three fields, as the `error` column holds them."""
        return {"stage": self.stage, "type": self.type, "message": self.message}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RowError) and self.as_dict() == other.as_dict()

    def __hash__(self) -> int:
        return hash((self.stage, self.type, self.message))

    def __repr__(self) -> str:
        return f"RowError(stage={self.stage!r}, type={self.type!r}, message={self.message!r})"

    def __reduce__(self) -> tuple[type[RowError], tuple[Stage, str, str]]:
        return type(self), (self.stage, self.type, self.message)


def attempt(stage: Stage, function: Callable[[], T]) -> T | RowError:
    """The result of `function()`, or the `RowError` that its failure makes.

    This is the one place where any exception is caught: tasks run the code of many models, decoders and tokenizers on
    data that nobody has looked at, and whatever they raise concerns one row only. So does the exit that a library calls
    in the middle of a row, but not that of Ray, or of a program's own handler, where a signal ends the process.
    """
    try:
        return function()
    except RowError as error:
        return error
    except SystemExit as error:
        if hasattr(error, "ray_terminate_msg") or _is_of_signal(error):
            raise
        return RowError(
            stage, "SystemExit", f"row: its step calls for the end of the process, sys.exit({error.code!r})."
        )
    except Exception as error:
        return RowError.from_exception(stage, error)
    except BaseException as error:
        # A panic of a library in Rust, such as tokenizers; pyo3 does not derive it from Exception.
        if type(error).__name__ != "PanicException":
            raise
        return RowError.from_exception(stage, error)


def _is_of_signal(error: BaseException) -> bool:
    """Whether a handler of signals has raised an error."""
    handlers = [getattr(signal.getsignal(number), "__code__", None) for number in (signal.SIGTERM, signal.SIGINT)]
    return any(frame.f_code in handlers for frame, _ in traceback.walk_tb(error.__traceback__))


def _text_of(error: BaseException) -> str:
    """What an exception says, in characters that can be stored; nothing if it cannot even say that."""
    try:
        text = str(error)
    except Exception:
        return ""
    return text.encode(errors="backslashreplace").decode()
