"""JSON that clients send: UTF-8, finite numbers, whole characters, no more depth or size than is honest."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from ray_pipelines.serve.refusals import Refused

__all__ = ["json_object", "json_of", "safe_value"]

MAX_DEPTH = 16
MAX_ENTRIES = 100_000
MAX_BRACKETS = 500_000
"""Lists and mappings of a body, which take twenty times the memory of their text."""
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body.

    Raises:
        Refused: 400 or 413: it is none, or larger than any honest request.
    """
    values = json_of(body)
    if not isinstance(values, dict):
        raise Refused(400, "expected a JSON object.")
    return values


def json_of(body: bytes, what: str = "The body") -> Any:
    """The JSON in a body: UTF-8, finite numbers, whole characters.

    Args:
        body: The text.
        what: What it is called in messages.

    Raises:
        Refused: 400: it is none; 413: it has more lists and mappings than any honest request.
    """
    if body.count(b"[") + body.count(b"{") > MAX_BRACKETS:
        raise Refused(413, f"{what} has too many lists and mappings.")
    try:
        values = json.loads(body.decode("utf-8-sig"), parse_constant=_no_number, parse_float=_finite)
        return _whole_characters(values) if SURROGATE.search(body) else values
    except json.JSONDecodeError as error:
        reason = f"line {error.lineno}, column {error.colno}: {error.msg}"
    except UnicodeDecodeError:
        reason = "expected UTF-8"
    except ValueError:
        reason = "expected finite numbers of some digits"
    except RecursionError:
        reason = "is nested too deeply"
    raise Refused(400, f"{what} is not valid JSON: {reason}.")


def _no_number(constant: str) -> None:
    raise ValueError(constant)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _whole_characters(value: Any) -> Any:
    """`value` with a question mark in place of each half of a character, which no tokenizer takes."""
    if isinstance(value, dict):
        return {_whole_characters(key): _whole_characters(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole_characters(item) for item in value]
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value


def safe_value(value: Any, name: str, max_chars: int) -> tuple[Any, int]:
    """JSON of any shape, within bounds of depth and size, and the number of characters in it.

    Raises:
        Refused: It is deeper or larger than any honest request.
    """
    num_chars = 0

    def checked(value: Any, depth: int) -> Any:
        nonlocal num_chars
        if depth > MAX_DEPTH:
            raise Refused(422, f"{name}: is nested too deeply.")
        if isinstance(value, Mapping | list) and len(value) > MAX_ENTRIES:
            raise Refused(413, f"{name}: has too many entries.")
        if isinstance(value, Mapping):
            return {checked(str(key), depth): checked(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [checked(item, depth + 1) for item in value]
        if isinstance(value, str):
            num_chars += len(value)
            if num_chars > max_chars:
                raise Refused(413, f"{name}: expected fewer characters.")
            return value
        if value is None or isinstance(value, int | float):
            return value
        raise Refused(422, f"{name}: expected JSON.")

    return checked(value, 0), num_chars
