"""Clients that ask while replicas come and go."""

from __future__ import annotations

import threading
import time
from collections import Counter

import httpx2

__all__ = ["NUM_CLIENTS", "RETRIABLE", "Load"]

NUM_CLIENTS = 4
REST_S = 0.05
"""Of each client, between two requests: a job beside clients without any gets no more than its slices."""
RETRIABLE = {"500", "503", "RemoteProtocolError"}
"""What clients take as a reason to ask again; these answers are of Serve's proxies."""


class Load:
    """Clients that ask without end, and what they got.

    Args:
        url: What they ask.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(NUM_CLIENTS)]
        self.statuses: Counter[str] = Counter()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        with httpx2.Client(timeout=120) as client:
            while not self._is_over.wait(REST_S):
                try:
                    answer = client.post(self._url, json={"inputs": "Hello"})
                    self.statuses[str(answer.status_code)] += 1
                except httpx2.HTTPError as error:
                    self.statuses[type(error).__name__] += 1

    def wait_for(self, count: int) -> None:
        """Waits for so many further results."""
        before = self.statuses["200"]
        for _ in range(1200):
            if self.statuses["200"] >= before + count:
                return
            time.sleep(0.05)
        raise AssertionError(self.statuses)

    @property
    def failed(self) -> Counter[str]:
        """What was no result."""
        return Counter({status: count for status, count in self.statuses.items() if status != "200"})
