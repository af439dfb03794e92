"""Plain values as JSON, kept apart by type, for two processes of which neither trusts the other.

Only the exact built-in types pass: an object that equals everything, or a `str` with an `__eq__` of its own, does not.
"""

from __future__ import annotations

from typing import Any

_SEQUENCES = {kind.__name__: kind for kind in (tuple, set, frozenset)}
_MAX_JSON_INT = 2**63


def encode(value: Any) -> Any:
    """A value as what `json.dumps` takes; lists stand for themselves, what JSON has not is tagged.

    Raises:
        TypeError: names the type that is not plain.
    """
    kind = type(value)
    if value is None or kind in (bool, float, str):
        return value
    if kind is int:  # hexadecimal, because decimal digits take quadratic time
        return value if abs(value) < _MAX_JSON_INT else {"int": hex(value)}
    if kind is list:
        return [encode(entry) for entry in value]
    if kind in _SEQUENCES.values():
        return {kind.__name__: [encode(entry) for entry in value]}
    if kind is dict:
        return {"dict": [[encode(key), encode(entry)] for key, entry in value.items()]}
    if kind is complex:
        return {"complex": [value.real, value.imag]}
    if kind is range:
        return {"range": [value.start, value.stop, value.step]}
    if kind is bytes:
        return {"bytes": value.hex()}
    raise TypeError(kind.__name__)


def decode(value: Any) -> Any:
    """The inverse of `encode`, of data that nobody trusts.

    Raises:
        ValueError, TypeError: it is not of that form.
    """
    if type(value) is list:
        return [decode(entry) for entry in value]
    if type(value) is not dict:
        return value
    if len(value) != 1:
        raise ValueError("not a plain value")
    tag, content = next(iter(value.items()))
    if tag in _SEQUENCES:
        return _SEQUENCES[tag]([decode(entry) for entry in content])
    if tag == "dict":
        return {decode(key): decode(entry) for key, entry in content}
    if tag == "int":
        return int(content, 16)
    if tag == "complex":
        return complex(*content)
    if tag == "range":
        return range(*content)
    if tag == "bytes":
        return bytes.fromhex(content)
    raise ValueError("not a plain value")
