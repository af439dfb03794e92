"""Chat messages as templates expect them, whatever the file format has made of them.

Parquet has one schema for all rows: a key that one message has, every message has, null where it said nothing. Chat
templates that ask whether `tool_calls` or `reasoning_content` is there then find it. So a key that is null counts as
absent, at every depth, in JSON lines as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class ConversationError(ValueError):
    """A row that the chat template cannot render, or not in a way that can be trained on."""


def is_messages(value: Any) -> bool:
    """Whether it is a list of {role, ...}, as chat templates take them."""
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in value)
    )


def without_nulls(value: Any) -> Any:
    """The same without the keys that are null, at any depth; entries of lists stay."""
    if isinstance(value, Mapping):
        return {key: without_nulls(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(entry) for entry in value]
    return value


def text_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages without null keys, each with text as its content.

    Content in parts is joined, because many templates would write the list as Python does. A message that only calls
    tools has no content; templates find an empty one.

    Raises:
        ConversationError: there is no message, or one holds something else than text.
    """
    if not messages:
        raise ConversationError("no messages")
    return [_text_message(i, message) for i, message in enumerate(messages)]


def _text_message(i: int, message: Mapping[str, Any]) -> dict[str, Any]:
    message = without_nulls(message)
    content = message.get("content")
    if content is None and message.get("tool_calls"):
        content = ""
    elif isinstance(content, list):
        content = "".join(_text_of_part(i, j, part) for j, part in enumerate(content))
    if not isinstance(content, str):
        raise ConversationError(f"message {i} holds {_kind(content)} where text was expected")
    return message | {"content": content}


def _text_of_part(i: int, j: int, part: Any) -> str:
    text = part.get("text") if isinstance(part, dict) else part
    if isinstance(text, str) and (not isinstance(part, dict) or part.get("type", "text") == "text"):
        return text
    found = part["type"] if isinstance(part, dict) and part.get("type", "text") != "text" else _kind(text)
    raise ConversationError(f"part {j} of message {i} holds {found} where text was expected")


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
