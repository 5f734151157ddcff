"""What a request is refused with, and how a row's error becomes one.

Answers say what is wrong with a request, never what an exception said: its text may hold another client's input, a
path of this machine, or a phrase on which a client library acts. Only reasons that this package finds itself are told.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ray_pipelines.errors import RowError

__all__ = ["Refused", "input_named", "late", "refusal_of", "told_as"]

OWN_REASONS = {"InvalidInput": 422, "MediaError": 422, "RowTooLarge": 413, "RowTimeout": 504}
"""Errors whose messages are sentences of this package, and the status of each."""

ERROR_TYPES = {404: "not_found", 405: "not_found", 424: "generation", 429: "overloaded", 500: "generation",
               503: "overloaded"}  # fmt: skip
"""As text-generation-inference names them; `validation` for the others."""


class Refused(Exception):
    """A request is not answered with a result.

    Attributes:
        status: The HTTP status.
        error_type: As text-generation-inference names it: `validation`, `overloaded`, `generation`, …
        retry_after_s: When to try again, where that may help.
    """

    def __init__(self, status: int, message: str, error_type: str | None = None, retry_after_s: float = 0) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type or ERROR_TYPES.get(status, "validation")
        self.retry_after_s = retry_after_s

    @property
    def message(self) -> str:
        """What the client is told."""
        return str(self)

    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        headers = {"content-type": "application/json"}
        if self.retry_after_s:
            headers["retry-after"] = str(max(1, round(self.retry_after_s)))
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.status == 408:
            headers["connection"] = "close"
        return headers

    def body(self, style: str = "hf") -> bytes:
        """The answer, as Hugging Face's clients read it or (`openai`) as OpenAI's do."""
        return json.dumps(self.as_dict(style)).encode()

    def as_dict(self, style: str = "hf") -> dict[str, Any]:
        """The same as a dictionary."""
        if style == "openai":
            return {"error": {"message": self.message, "type": self.error_type, "param": None, "code": self.status}}
        return {"error": self.message, "error_type": self.error_type}

    def __reduce__(self) -> tuple[type[Refused], tuple[int, str, str, float]]:
        return type(self), (self.status, self.message, self.error_type, self.retry_after_s)


@contextlib.contextmanager
def told_as(names: Mapping[str, str]) -> Iterator[None]:
    """Has what is refused in the block told in the words of another protocol.

    Args:
        names: Words of messages, and what is said in their place.
    """
    try:
        yield
    except Refused as refused:
        message = refused.message
        for own, name in names.items():
            # Not inside of a longer name, such as messages.content.text.
            message = re.sub(rf"(?<![\w.]){re.escape(own)}", name, message)
        raise Refused(refused.status, message, refused.error_type, refused.retry_after_s) from None


def input_named(name: str) -> dict[str, str]:
    """For `told_as`: the input's name in a route that has another for it, and no parameter that truncates it."""
    return {"inputs: ": f"{name}: ", "text: ": f"{name}: ", "text[": f"{name}[", "text, or set truncation": "text"}


def late(timeout_s: float) -> Refused:
    """What a client is told whose time is up."""
    return Refused(504, f"No result within {timeout_s:g} seconds.", "timeout")


def refusal_of(error: RowError) -> Refused:
    """What a client is told of a row that failed."""
    if isinstance(error.__cause__, Refused):
        return error.__cause__
    if error.type in OWN_REASONS:
        return Refused(OWN_REASONS[error.type], error.message)
    if error.stage in ("decode", "preprocess"):
        return Refused(422, "The input cannot be processed by this model.")
    if error.type in ("ValueError", "IndexError"):
        return Refused(422, "The model does not take this input with these parameters.")
    return Refused(500, "The model failed on this input.")
