"""The side of the program: its functions, called by name with plain values."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from verl_ext.sandbox.plain import decode, encode

MAX_MESSAGE_CHARS = 1000


def function_of(namespace: dict[str, Any], name: str) -> Callable[..., Any] | None:
    """The function, or the method of a fresh `Solution()`; None where the program has neither."""
    function = namespace.get(name)
    if not callable(function):
        solution = namespace.get("Solution")
        function = getattr(solution(), name, None) if isinstance(solution, type) else None
    return function if callable(function) else None


def call_once(namespace: dict[str, Any], name: str, arguments: str, result: int) -> bool:
    """Call with one JSON value a line and write what returns, as JSON, to a descriptor; False where there is none.

    Raises:
        TypeError: it is no plain value.
    """
    function = function_of(namespace, name)
    if function is None:
        return False
    values = [json.loads(line) for line in arguments.split("\n") if line.strip()]
    text = json.dumps(_as_json(function(*values)))
    with open(result, "w", closefd=False) as stream:
        stream.write(text)
    return True


def answer_calls(namespace: dict[str, Any], requests: int, replies: int) -> None:
    """Answer each line of JSON in `requests` by a line in `replies`, until the other side closes.

    `{"name", "arguments", "keywords"}` in; out is `{"value"}`, `{"raised": [names of built-in types], "message"}`,
    `{"missing"}` or `{"not_plain"}`. Where a function returns None, `arguments` holds what it made of its arguments.
    """
    with open(requests, "rb", closefd=False) as lines:
        for line in lines:
            message = json.dumps(_answer(namespace, json.loads(line))).encode() + b"\n"
            while message:
                message = message[os.write(replies, message) :]


def _answer(namespace: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    function = function_of(namespace, request["name"])
    if function is None:
        return {"missing": True}
    arguments, keywords = decode(request["arguments"]), decode(request["keywords"])
    try:
        value = function(*arguments, **keywords)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, the test may expect it
        names = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
        return {"raised": names, "message": str(error)[:MAX_MESSAGE_CHARS]}
    try:
        return {"value": encode(value), **({"arguments": encode(arguments)} if value is None else {})}
    except TypeError:
        return {"not_plain": True}


def _as_json(value: Any) -> Any:
    """Plain values alone; tuples become lists and keys texts."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) in (list, tuple):
        return [_as_json(entry) for entry in value]
    if type(value) is dict:
        return {key if type(key) is str else json.dumps(_as_json(key)): _as_json(entry) for key, entry in value.items()}
    raise TypeError(type(value).__name__)
