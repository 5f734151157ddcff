"""Who may ask: bearer keys from the environment, compared in constant time."""

from __future__ import annotations

import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ray_pipelines.errors import ConfigError
from ray_pipelines.serve.refusals import Refused

__all__ = ["Guard"]

KEYS, KEYS_FILE = "RAY_PIPELINES_API_KEYS", "RAY_PIPELINES_API_KEYS_FILE"


@dataclass(frozen=True)
class Guard:
    """Checks keys.

    Attributes:
        keys: Keys that open; without any, everybody may ask.
    """

    keys: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, *, required: bool = False) -> Guard:
        """The keys in `RAY_PIPELINES_API_KEYS` (separated by commas or spaces) or in the file that `…_FILE` names.

        Raises:
            ConfigError: There are none, and they are required.
        """
        text = os.environ.get(KEYS, "")
        if file := os.environ.get(KEYS_FILE):
            text += " " + Path(file).read_text()
        keys = tuple(text.replace(",", " ").split())
        if required and not keys:
            raise ConfigError(f"serve.open_to_all: is false, so expected keys in {KEYS}; got none.")
        return cls(keys)

    def check(self, authorization: bytes | None) -> None:
        """Lets a request pass.

        Args:
            authorization: The header of that name, as it came.

        Raises:
            Refused: 401: its key is missing or wrong.
        """
        if not self.keys:
            return
        scheme, _, given = (authorization or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not _is_among(given.strip(), self.keys):
            raise Refused(401, "A valid key is needed: Authorization: Bearer KEY.", "unauthorized")


def _is_among(given: bytes, keys: Sequence[str]) -> bool:
    """Compares with every key, however early one fits."""
    fits = [hmac.compare_digest(given, key.encode()) for key in keys]
    return any(fits)
