"""Files of an evaluation: JSON lines that grow by whole lines, and what says which run they belong to.

output_dir/
  run.json                    what was asked for; a run that goes on must ask for the same
  samples/BENCHMARK.jsonl     every response, in the order in which they were finished
  graded/GRADER/BENCHMARK.jsonl   the same with prediction, correct and status
  summary.json  report.md  plots/
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from verl_ext.errors import DataError, UserError


class SampleKey(NamedTuple):
    """Which sample of which problem."""

    problem: int
    sample: int


def key_of(record: Mapping[str, Any]) -> SampleKey:
    return SampleKey(record["problem"], record["sample"])


class Lines:
    """A JSON-lines file to which records are appended, each in one write, so that a killed process leaves whole lines.

    A last line that was cut off all the same (a full disk, a machine that lost power) is removed when the file is
    opened for appending, and said. A bad line anywhere else is an error: nobody knows what it was.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def read(self) -> Iterator[dict[str, Any]]:
        """The records; none if there is no file. A last line that was cut off is left out.

        Raises:
            DataError: a line in the middle is not a record.
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                record = _record(line)
                if record is not None:
                    yield record
                elif file.read(1):
                    raise DataError(f"{self.path}: line {number} is damaged; delete it, and its sample is made again")

    def repair(self) -> None:
        """Remove a last line that was cut off, and say so."""
        if not self.path.exists():
            return
        end = 0
        with self.path.open("rb+") as file:
            for line in file:
                if _record(line) is None:
                    rest = file.read(1)
                    if not rest:
                        file.truncate(end)
                        print(
                            f"{self.path}: its last line was cut off; removed, and its sample is made again",
                            file=sys.stderr,
                        )
                    return
                end += len(line)

    def __enter__(self) -> Lines:  # noqa: PYI034 - typing.Self needs Python 3.11
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.repair()
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        return self

    def __exit__(self, *_: object) -> None:
        os.fsync(self._file)
        os.close(self._file)
        self._file = None

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record as one line.

        Raises:
            UserError: the disk does not take it.
        """
        try:
            written = os.write(self._file, line := _line(record))
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {error.strerror}") from error
        if written < len(line):
            raise UserError(f"{self.path}: cannot be written: the disk is full")


def _line(record: Mapping[str, Any]) -> bytes:
    try:
        return (json.dumps(record, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which no file can hold but as an escape
        return (json.dumps(record) + "\n").encode()


def _record(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def samples_file(output_dir: Path, benchmark: str) -> Path:
    return output_dir / "samples" / f"{benchmark}.jsonl"


def graded_file(output_dir: Path, grader: str, benchmark: str) -> Path:
    return output_dir / "graded" / grader / f"{benchmark}.jsonl"


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """Raises:
    UserError: there is no such file, or it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; is this the output_dir of an evaluation?") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
