"""Chats as rows hold them: lists of messages, also as Arrow gives them back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_pipelines.errors import InvalidInput


def parse_chat(value: Any, field_name: str = "text") -> list[dict[str, Any]]:
    """The messages of a chat: dictionaries with at least `role` and `content`.

    Fields that are null in an Arrow struct, because only other messages have them, are left out.

    >>> parse_chat([{"role": "user", "content": "Hi", "tool_calls": None}])
    [{'role': 'user', 'content': 'Hi'}]

    Raises:
        InvalidInput: It is not a list of messages.
    """
    if not isinstance(value, list | tuple) and not hasattr(value, "tolist"):
        got = "null" if value is None else type(value).__name__
        raise InvalidInput(f"{field_name}: expected a string or a list of messages; got {got}.")
    messages = [_parse_message(message, index, field_name) for index, message in enumerate(value)]
    if not messages:
        raise InvalidInput(f"{field_name}: expected at least one message; got an empty chat.")
    return messages


def _parse_message(message: Any, index: int, field_name: str) -> dict[str, Any]:
    where = f"{field_name}[{index}]"
    if isinstance(message, list | tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in message):
        message = dict(message)
    if not isinstance(message, Mapping):
        raise InvalidInput(f"{where}: expected a message {{role, content}}; got {type(message).__name__}.")
    if not isinstance(message.get("role"), str):
        raise InvalidInput(f"{where}.role: expected a string such as user; got {message.get('role')!r:.40}.")
    if "content" not in message:
        raise InvalidInput(f"{where}.content: is missing.")
    content = _parse_content(message["content"], where)
    if content is None and message.get("tool_calls") is None:
        raise InvalidInput(f"{where}.content: expected a text; got null.")
    others = {name: value for name, value in message.items() if value is not None}
    return {**others, "role": message["role"], "content": content}


def _parse_content(content: Any, where: str) -> Any:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list | tuple) and not hasattr(content, "tolist"):
        raise InvalidInput(f"{where}.content: expected a string or a list of parts; got {type(content).__name__}.")
    parts = []
    for part in content:
        if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
            raise InvalidInput(f"{where}.content: expected parts {{type, …}}; got {type(part).__name__}.")
        parts.append({name: value for name, value in part.items() if value is not None})
    return parts


def join_texts(messages: list[dict[str, Any]], field_name: str = "text") -> list[dict[str, Any]]:
    """The messages of a chat for models that take strings: the parts of each content as one text, a line for each.

    Lines, since what OpenAI's API takes as several parts are several texts; vLLM joins them likewise.

    >>> join_texts([{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}]}])
    [{'role': 'user', 'content': 'Hi\\nthere'}]

    Raises:
        InvalidInput: A part is no text.
    """
    return [
        {**message, "content": "\n".join(_text_of(part, field_name) for part in message["content"])}
        if isinstance(message["content"], list)
        else message
        for message in messages
    ]


def _text_of(part: Mapping[str, Any], field_name: str) -> str:
    text = part.get("text")
    if part["type"] != "text" or not isinstance(text, str):
        kind = part["type"]
        raise InvalidInput(f"{field_name}: expected parts of type text, as this model takes no others; got {kind:.40}.")
    return text


def reply_of(generated: Any) -> str:
    """The text of what a pipeline generated: itself, or the last message of a chat.

    >>> reply_of([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}])
    'Hello!'
    """
    if isinstance(generated, str):
        return generated
    content = generated[-1].get("content")
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    return content or ""
