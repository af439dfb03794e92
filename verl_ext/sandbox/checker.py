"""The side of the tests: code of a data set that calls the program's functions through a pipe.

It never shares a process with the program, so the program can neither read what is right, nor end the tests, nor
replace what they compare with: all it has is the values that it returns.
"""

from __future__ import annotations

import builtins
import json
import os
import re
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from verl_ext.sandbox.plain import decode, encode
from verl_ext.sandbox.prelude import GONE

NOT_A_VERDICT = "broken"


class Dialogue:
    """Calls over two pipes, and the end of the tests, which nothing that they catch can hold up.

    Args:
        requests: descriptor to write to.
        replies: descriptor to read from.
        result: descriptor of a file for the verdict.
        size: most bytes of one reply.
    """

    def __init__(self, requests: int, replies: int, result: int, size: int) -> None:
        self._requests, self._result, self._size = requests, result, size
        self._replies = open(replies, "rb", closefd=False)  # noqa: SIM115 - open until the process ends
        self._raised: BaseException | None = None
        self.calls = 0

    def conclude(self, verdict: str, detail: str = "") -> NoReturn:
        """Write `passed`, `wrong_answer`, `runtime_error`, `no_function`, `gone` or `broken`, and end the process."""
        os.write(self._result, json.dumps({"verdict": verdict, "detail": detail}).encode())
        os._exit(GONE if verdict == "gone" else 0)

    def conclude_from(self, error: BaseException) -> NoReturn:
        """The verdict of tests that ended with an error: before the first call it is their own."""
        if not self.calls:
            self.conclude(NOT_A_VERDICT, f"the tests end with {type(error).__name__} before they call the program")
        self.conclude("runtime_error" if error is self._raised else "wrong_answer")

    def function(self, name: str) -> Callable[..., Any]:
        """The program's function of that name."""

        def call(*arguments: Any, **keywords: Any) -> Any:
            return self._call(name, arguments, keywords)

        call.__name__ = call.__qualname__ = name
        return call

    def _call(self, name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        try:
            request = {"name": name, "arguments": encode(list(arguments)), "keywords": encode(keywords)}
        except TypeError as error:
            self.conclude(NOT_A_VERDICT, f"the tests hand over an object of type {error}")
        self.calls += 1
        message = json.dumps(request).encode() + b"\n"
        try:
            while message:
                message = message[os.write(self._requests, message) :]
            line = self._replies.readline(self._size + 1)
            if not line.endswith(b"\n"):
                self.conclude("gone")
            reply = json.loads(line)
            if "missing" in reply:
                self.conclude("no_function")
            if "raised" in reply:
                self._raised = _error(reply)
            else:
                value = decode(reply["value"])
                changed = decode(reply["arguments"]) if value is None else []
        except BrokenPipeError:
            self.conclude("gone")
        except (OSError, ValueError, TypeError, KeyError, RecursionError, MemoryError):
            self.conclude("runtime_error")  # no plain value, or not our protocol
        if "raised" in reply:
            raise self._raised
        for ours, theirs in zip(arguments, changed, strict=False):
            _write_back(ours, theirs)
        return value


def check(
    dialogue: Dialogue, namespace: dict[str, Any], setup: str, test: str, names: list[str], ask: bool
) -> NoReturn:
    """Run the tests to a verdict.

    Args:
        namespace: what their code may use without importing it.
        setup: code before the tests that defines what they use, and nothing of the program.
        test: defines `check(candidate)`, or functions and classes as pytest collects them, or asserts at once. Its
            module `solution` is the program.
        names: functions of the program that the tests call; `check` gets the first.
        ask: take names that nothing defines from the program.
    """
    try:
        codes = [compile(text, name, "exec") for text, name in ((setup, "setup.py"), (test, "test.py"))]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        dialogue.conclude(NOT_A_VERDICT, f"the tests do not compile ({type(error).__name__})")
    solution = types.ModuleType("solution")
    solution.__getattr__ = _asking(dialogue)  # type: ignore[method-assign]
    solution.__all__ = list(names)
    sys.modules.update(solution=solution, pytest=_pytest())
    namespace.update(__name__="checker")
    try:
        exec(codes[0], namespace)  # noqa: S102 - the data set's own code, confined
        defined = {*namespace, *dir(builtins)}
        namespace.update({name: dialogue.function(name) for name in names})
        if ask:
            unknown = set(_names_in(codes[1])) - defined - set(names)
            namespace.update({name: dialogue.function(name) for name in unknown})
        before = dict(namespace)
        exec(codes[1], namespace)  # noqa: S102
        if names and callable(namespace.get("check")):
            namespace["check"](namespace[names[0]])
        for name, function in [item for item in namespace.items() if before.get(item[0]) is not item[1]]:
            for run in _tests_of(name, function):
                run()
    except BaseException as error:  # noqa: BLE001 - whatever ends the tests ends them without a pass
        dialogue.conclude_from(error)
    if not dialogue.calls:
        dialogue.conclude(NOT_A_VERDICT, "the tests do not call the program")
    dialogue.conclude("passed")


def _asking(dialogue: Dialogue) -> Callable[[str], Any]:
    def attribute(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return dialogue.function(name)

    return attribute


def _tests_of(name: str, found: Any) -> Iterator[Callable[[], Any]]:
    """What pytest would run of a module's member; a test that needs a fixture fails when it is called."""
    if isinstance(found, types.FunctionType) and name.startswith("test"):
        for keywords in getattr(found, "cases", [{}]):
            yield lambda keywords=keywords: found(**keywords)
    elif isinstance(found, type) and found.__module__ == "checker":
        case = getattr(sys.modules.get("unittest"), "TestCase", ())
        for method in [method for method in dir(found) if method.startswith("test")]:
            instance = found(method) if case and issubclass(found, case) else found()
            yield lambda instance=instance, method=method: _with_setup(instance, method)


def _with_setup(instance: Any, method: str) -> None:
    for name in ("setUp", "setup_method", method, "tearDown", "teardown_method"):
        step = getattr(instance, name, None)
        if step is not None:
            for keywords in getattr(step, "cases", [{}]):
                step(**keywords)


def _pytest() -> types.ModuleType:
    """As much of pytest as generated tests use: `raises` and `mark.parametrize`; anything else is missing by name."""

    class raises:
        def __init__(self, expected: Any, match: str | None = None) -> None:
            self.expected, self.match, self.value = expected, match, None

        def __enter__(self) -> Any:
            return self

        def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
            if kind is None:
                raise AssertionError("did not raise")
            self.value = error
            if not issubclass(kind, self.expected):
                return False
            if self.match is not None and not re.search(self.match, str(error)):
                raise AssertionError("another message")
            return True

    def parametrize(names: Any, values: Any) -> Callable[[Any], Any]:
        listed = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)

        def mark(function: Any) -> Any:
            inner = getattr(function, "cases", [{}])
            rows = [dict(zip(listed, [row] if len(listed) == 1 else row, strict=True)) for row in values]
            function.cases = [{**case, **row} for case in inner for row in rows]
            return function

        return mark

    module = types.ModuleType("pytest")
    module.raises = raises
    module.mark = types.SimpleNamespace(parametrize=parametrize)
    return module


def _error(reply: dict[str, Any]) -> Exception:
    """The built-in type nearest to what the program raised; one of its own counts as what it derives from."""
    for name in reply["raised"]:
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                return kind(str(reply["message"]))
            except TypeError:  # UnicodeError and its like take more
                continue
    raise ValueError("no exception")


def _write_back(ours: Any, theirs: Any) -> None:
    """What a function that returns None did to its argument."""
    if type(ours) is not type(theirs) or ours == theirs:
        return
    if type(ours) is list:
        ours[:] = theirs
    elif type(ours) in (dict, set):
        ours.clear()
        ours.update(theirs)


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)
