"""What published data sets hold as tests, brought into the spelling that `tests.read_tests` reads.

Each reader takes a row of its data set and returns an object for JSON. Columns as the data sets' cards and public loaders
name them: HumanEval (arXiv 2107.03374), MBPP (arXiv 2108.07732), LiveCodeBench (arXiv 2403.07974), KodCode
(arXiv 2503.02951), TACO (arXiv 2312.14852).
"""

from __future__ import annotations

import ast
import base64
import binascii
import io
import json
import pickle
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from verl_ext.reward.code.tests import MAX_TEST_BYTES, MalformedTests

Row = Mapping[str, Any]
MAX_PRIVATE_BYTES = 16 * MAX_TEST_BYTES


def humaneval_tests(row: Row) -> dict[str, Any]:
    """The prompt comes first, for the helpers that some tests take from it."""
    setup, test, name = (_text(row, column) for column in ("prompt", "test", "entry_point"))
    return {"form": "asserts", "setup": setup, "test": test, "entry_point": name}


def mbpp_tests(row: Row) -> dict[str, Any]:
    """The functions that its asserts name, of those that the reference program defines."""
    asserts = row.get("test_list")
    if not isinstance(asserts, list | tuple) or not asserts:
        raise MalformedTests("tests: no asserts in column 'test_list'")
    imports = row.get("test_imports") or row.get("test_setup_code") or ""
    setup = imports if isinstance(imports, str) else "\n".join(imports)
    test = "\n".join(map(str, asserts))
    names = _functions(_text(row, "code"), test)
    return {"form": "asserts", "setup": setup, "test": test, "entry_point": names}


def kodcode_tests(row: Row) -> dict[str, Any]:
    """Functions of pytest that import from `solution`; what they import has to be functions."""
    test, solution = _text(row, "test"), _text(row, "solution")
    imported = []
    for node in ast.walk(_parsed(test, "test")):
        if isinstance(node, ast.ImportFrom) and node.module == "solution":
            imported += [alias.name for alias in node.names]
    defined = _functions(solution)
    if "*" in imported:
        imported = defined
    others = sorted(set(imported) - set(defined))
    if others:
        raise MalformedTests(f"tests: they use {', '.join(others)}, of which the solution makes no function")
    if not imported:
        raise MalformedTests("tests: they import nothing from the solution")
    return {"form": "asserts", "setup": "", "test": test, "entry_point": list(dict.fromkeys(imported))}


def livecodebench_tests(row: Row) -> dict[str, Any]:
    """The public tests and the private ones."""
    cases = [*_cases(row, "public_test_cases"), *_cases(row, "private_test_cases")]
    if not cases:
        raise MalformedTests("tests: there are none")
    metadata = _json(row.get("metadata") or "{}", "metadata")
    name = metadata.get("func_name") if isinstance(metadata, dict) else None
    kinds = {case.get("testtype") for case in cases}
    if kinds == {"stdin"}:
        inputs, outputs = ([_text(case, side) for case in cases] for side in ("input", "output"))
        return {"form": "stdin", "inputs": inputs, "outputs": outputs}
    if kinds != {"functional"} or not isinstance(name, str) or not name:
        raise MalformedTests(f"tests: testtype {sorted(map(str, kinds))} with func_name {name!r}")
    return {
        "form": "call",
        "fn_name": name,
        "inputs": [
            [_json(line, "input") for line in _text(case, "input").split("\n") if line.strip()] for case in cases
        ],
        "outputs": [_json(_text(case, "output"), "output") for case in cases],
    }


def taco_tests(row: Row) -> dict[str, Any]:
    """Column `input_output` of TACO and APPS."""
    tests = _json(_text(row, "input_output"), "input_output")
    if not isinstance(tests, dict):
        raise MalformedTests("tests: column 'input_output' holds no JSON object")
    return tests


READERS: dict[str, Callable[[Row], dict[str, Any]]] = {
    "humaneval": humaneval_tests,
    "mbpp": mbpp_tests,
    "kodcode": kodcode_tests,
    "livecodebench": livecodebench_tests,
    "taco": taco_tests,
    "apps": taco_tests,
}
"""By data source."""


class _TextUnpickler(pickle.Unpickler):
    """Builds texts, and of what a pickle can call nothing."""

    def find_class(self, module: str, name: str) -> Any:
        raise MalformedTests(f"tests: the pickle asks for {module}.{name}; a text needs nothing")

    def persistent_load(self, pid: Any) -> Any:
        raise MalformedTests("tests: the pickle refers to something outside of it")


def unpacked(packed: str) -> str:
    """The text in LiveCodeBench's private tests: base64 of zlib of a pickled text.

    Raises:
        MalformedTests: it is anything else.
    """
    try:
        inflater = zlib.decompressobj()
        data = inflater.decompress(base64.b64decode(packed, validate=True), MAX_PRIVATE_BYTES)
        if inflater.unconsumed_tail:
            raise MalformedTests(f"tests: the private tests are over {MAX_PRIVATE_BYTES >> 20} MB")
        value = _TextUnpickler(io.BytesIO(data)).load()
    except (binascii.Error, zlib.error, pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError) as error:
        if isinstance(error, MalformedTests):
            raise
        raise MalformedTests("tests: the private tests are not base64 of zlib of a pickled text") from None
    if type(value) is not str:
        raise MalformedTests(f"tests: the private tests unpickle to {type(value).__name__}, not to a text")
    return value


def _cases(row: Row, column: str) -> list[dict[str, Any]]:
    packed = row.get(column) or "[]"
    if isinstance(packed, str) and column == "private_test_cases" and not packed.lstrip().startswith("["):
        packed = unpacked(packed)
    cases = _json(packed, column) if isinstance(packed, str) else packed
    if not isinstance(cases, list) or not all(isinstance(case, dict) for case in cases):
        raise MalformedTests(f"tests: column {column!r} holds no list of tests")
    return cases


def _json(text: Any, what: str) -> Any:
    try:
        return json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        raise MalformedTests(f"tests: {what} is not JSON") from None


def _text(row: Row, column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        found = "no such column" if column not in row else type(value).__name__
        raise MalformedTests(f"tests: no text in column {column!r} ({found})")
    return value


def _parsed(code: str, what: str) -> ast.Module:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise MalformedTests(f"tests: the {what} is no Python") from None


def _functions(solution: str, test: str | None = None) -> list[str]:
    """The functions that a program defines; with `test` those that it names."""
    defined = [node.name for node in _parsed(solution, "solution").body if isinstance(node, ast.FunctionDef)]
    if test is None:
        return defined
    used = {node.id for node in ast.walk(_parsed(test, "test")) if isinstance(node, ast.Name)}
    found = [name for name in defined if name in used]
    if not found:
        raise MalformedTests("tests: they call none of the functions that the reference program defines")
    return found
