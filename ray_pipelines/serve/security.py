"""Who may ask: bearer keys from the environment, of which only digests are kept, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ray_pipelines.errors import ConfigError
from ray_pipelines.serve.refusals import Refused

__all__ = ["Guard"]

KEYS, KEYS_FILE = "RAY_PIPELINES_API_KEYS", "RAY_PIPELINES_API_KEYS_FILE"


@dataclass(frozen=True)
class Guard:
    """Checks keys. It travels from whoever builds an application to the replicas, and holds no key itself.

    Attributes:
        digests: SHA-256 of each key that opens; without any, everybody may ask.
    """

    digests: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, keys: Iterable[str]) -> Guard:
        """The guard whom `keys` satisfy."""
        return cls(tuple(_digest(key.encode()) for key in keys))

    @classmethod
    def from_environment(cls) -> Guard:
        """The keys in `RAY_PIPELINES_API_KEYS` (separated by commas or spaces) and in the file that `…_FILE` names.

        Raises:
            ConfigError: The file cannot be read, or there are no keys in it nor beside it.
        """
        text = os.environ.get(KEYS, "")
        if file := os.environ.get(KEYS_FILE):
            try:
                text += " " + Path(file).read_text()
            except OSError as error:
                raise ConfigError(f"{KEYS_FILE}: cannot read {file!r} ({error.strerror or error}).") from None
            if not text.replace(",", " ").split():
                raise ConfigError(f"{KEYS_FILE}: expected keys in {file!r}; got none.")
        return cls.of(text.replace(",", " ").split())

    def in_replica(self, *, open_to_all: bool) -> Guard:
        """This guard; without a key, that of the replica's own environment.

        Raises:
            ConfigError: That has none either, and the endpoint is not open to all.
        """
        guard = self if self.digests else Guard.from_environment()
        if not guard.digests and not open_to_all:
            raise ConfigError(f"serve.open_to_all: is false, so expected keys in {KEYS}; got none.")
        return guard

    def check(self, authorization: bytes | None) -> None:
        """Lets a request pass.

        Args:
            authorization: The header of that name, as it came.

        Raises:
            Refused: 401: its key is missing or wrong.
        """
        if not self.digests:
            return
        scheme, _, given = (authorization or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not self._opens(given.strip()):
            raise Refused(401, "A valid key is needed: Authorization: Bearer KEY.", "unauthorized")

    def _opens(self, key: bytes) -> bool:
        """Compares with every digest, however early one fits."""
        given = _digest(key)
        fits = [hmac.compare_digest(given, digest) for digest in self.digests]
        return any(fits)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
