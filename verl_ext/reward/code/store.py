"""Tests beside the data instead of in its rows, which are copied to every answer; each under the hash of what it holds.

`tests/ab/ab12...json.gz` beside a parquet file; its rows hold `tests:ab12...`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from verl_ext.reward.code.tests import MAX_TEST_BYTES, MalformedTests, read_tests

PREFIX = "tests:"
FOLDER = "tests"
_ID = re.compile(r"tests:[0-9a-f]{16}")
_CACHED = 32
_MAX_BYTES = 16 * MAX_TEST_BYTES


def is_id(gold: str) -> bool:
    """Whether a gold names stored tests instead of holding them."""
    return gold.startswith(PREFIX)


def put(tests: Mapping[str, Any], folder: Path) -> str:
    """Keep tests below `folder`; returns their id. The same tests are kept once.

    Raises:
        MalformedTests: nobody could use them (`tests.read_tests`).
    """
    text = json.dumps(tests, sort_keys=True)
    read_tests(text)
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = _path(folder, name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(gzip.compress(text.encode(), mtime=0))
        temporary.replace(path)
    return PREFIX + name


def get(gold: str, folders: tuple[str, ...]) -> str:
    """The tests that a gold names, as JSON; a gold that is no id as it is.

    Args:
        folders: stores, looked through in this order.

    Raises:
        MalformedTests: no store has that id, or its file is not what its name says.
    """
    return _read(gold, folders) if is_id(gold) else gold


@lru_cache(maxsize=_CACHED)
def _read(gold: str, folders: tuple[str, ...]) -> str:
    path = find(gold, folders)
    if path is None:
        raise MalformedTests(f"tests: {gold!r} is not in {' or '.join(folders) or 'any folder: none is known'}")
    try:
        with gzip.open(path) as stream:
            data = stream.read(_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error):
        raise MalformedTests(f"tests: {path} cannot be read") from None
    if hashlib.sha256(data).hexdigest()[:16] != gold.removeprefix(PREFIX):
        raise MalformedTests(f"tests: {path} does not hold what its name says")
    return data.decode()


def find(gold: str, folders: Iterable[str]) -> Path | None:
    """The file of an id; None where no store has it."""
    if not _ID.fullmatch(gold):
        return None
    paths = (_path(Path(folder), gold.removeprefix(PREFIX)) for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def folder_beside(path: str | Path) -> str:
    """Where the tests of a data file are."""
    return str(Path(path).resolve().parent / FOLDER)


def _path(folder: Path, name: str) -> Path:
    return folder / name[:2] / f"{name}.json.gz"
