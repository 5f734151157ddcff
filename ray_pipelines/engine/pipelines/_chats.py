"""Chats on their way through a pipeline's steps, as plain messages that may cross a stage boundary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["texts_of"]


def texts_of(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with the texts of their contents alone: all that a reply is put together from.

    >>> texts_of([{"role": "user", "content": [{"type": "image", "image": None}, {"type": "text", "text": "Hi"}]}])
    [{'role': 'user', 'content': [{'type': 'text', 'text': 'Hi'}]}]
    """
    return [
        {"role": message["role"], "content": [part for part in message["content"] if part["type"] == "text"]}
        for message in messages
    ]
