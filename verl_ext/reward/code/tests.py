"""The tests of a problem, read from a row's gold and checked.

Three forms: a program reads standard input and prints; a function (or a method of `Solution`) is called; or code asserts
what functions return. Read are this project's own spelling with `form`, and that of APPS, TACO and prime's data without
it, where `fn_name` tells the first two apart. What other data sets hold is brought into it by `formats`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from verl_ext.sandbox.remote import REMOTE
from verl_ext.sandbox.slot import Checker

FORMS = ("stdin", "call", "asserts")
MAX_TEST_BYTES = 64 * 2**20


class MalformedTests(ValueError):
    """The data are wrong; this says nothing about any answer. The message is one line."""


@dataclass(frozen=True)
class Tests:
    """Inputs and what is right for each, in the order of the data."""

    __test__ = False

    inputs: tuple[str, ...]
    """Standard input; for calls one JSON value a line, the arguments."""
    expected: tuple[Any, ...]
    """Standard output as text; for calls the value, as JSON has it."""
    fn_name: str = ""
    """Empty for programs that read standard input."""


@dataclass(frozen=True)
class Asserts:
    """Code that tests functions by name."""

    checker: Checker


def read_tests(gold: str) -> Tests | Asserts:
    """The tests in a gold.

    Raises:
        MalformedTests: no JSON object, an unknown form, no tests, inputs and outputs of different number, a test over
            64 MB.
    """
    try:
        data = json.loads(gold)
    except (ValueError, RecursionError):
        raise MalformedTests("tests: not JSON") from None
    if not isinstance(data, Mapping):
        raise MalformedTests("tests: not a JSON object")
    fn_name = data.get("fn_name") or ""
    form = data.get("form", "call" if fn_name else "stdin")
    if form not in FORMS:
        raise MalformedTests(f"tests: unknown form {form!r}; it is one of {', '.join(FORMS)}")
    if form == "asserts":
        return _asserts(data)
    if not isinstance(fn_name, str) or (form == "call") != bool(fn_name):
        raise MalformedTests(f"tests: form {form} with fn_name {fn_name!r}")
    inputs, outputs = data.get("inputs"), data.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        raise MalformedTests("tests: inputs and outputs are not both lists")
    if len(inputs) != len(outputs):
        raise MalformedTests(f"tests: {len(inputs)} inputs and {len(outputs)} outputs")
    if not inputs:
        raise MalformedTests("tests: there are none")
    if form == "stdin":
        tests = Tests(tuple(map(_text, inputs)), tuple(map(_text, outputs)))
    else:
        # Without `form`, APPS and its descendants wrap each returned value in a list of one.
        wrapped = "form" not in data and all(isinstance(value, list) and len(value) == 1 for value in outputs)
        expected = tuple(value[0] if wrapped else value for value in outputs)
        tests = Tests(tuple(map(_arguments, inputs)), expected, fn_name)
    for index, text in enumerate(tests.inputs):
        if len(text) > MAX_TEST_BYTES or len(str(tests.expected[index])) > MAX_TEST_BYTES:
            raise MalformedTests(f"tests: number {index} is over 64 MB")
    return tests


def require_place(tests: Tests | Asserts, sandbox: str) -> None:
    """Refuse tests that the sandbox of this name cannot run.

    Raises:
        MalformedTests: tests that are code, which need two processes beside each other, at a service that has one.
    """
    if sandbox == REMOTE and isinstance(tests, Asserts):
        raise MalformedTests(f"tests: form asserts needs a sandbox on this machine, not sandbox={REMOTE}")


def _asserts(data: Mapping[str, Any]) -> Asserts:
    setup, test, names = data.get("setup"), data.get("test"), data.get("entry_point") or ()
    names = (names,) if isinstance(names, str) else names
    if not isinstance(test, str) or not isinstance(setup, str | None):
        raise MalformedTests("tests: test and setup are code, as text")
    if not test.strip():
        raise MalformedTests("tests: there are none")
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name.isidentifier() for name in names):
        raise MalformedTests(f"tests: entry_point is the name of a function, or a list of them, not {names!r}")
    if len(test) > MAX_TEST_BYTES:
        raise MalformedTests("tests: the code is over 64 MB")
    return Asserts(Checker(setup or "", test, tuple(names), setup is None))


def _text(value: Any) -> str:
    if isinstance(value, list):  # some problems of APPS hold lines
        value = "\n".join(map(_text, value))
    if not isinstance(value, str):
        raise MalformedTests(f"tests: standard input and output are text, not {type(value).__name__}")
    return value


def _arguments(value: Any) -> str:
    if not isinstance(value, list):
        raise MalformedTests(f"tests: the arguments of a call are a list, not {type(value).__name__}")
    return "\n".join(json.dumps(argument) for argument in value)
