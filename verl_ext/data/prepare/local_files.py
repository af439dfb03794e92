"""Readers of local files, each yielding (location, values by column) row by row."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl_ext.data.prepare.arrow_rows import rows_of_batch
from verl_ext.errors import DataError, first_line

Located = tuple[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What is read of a source.

    Attributes:
        text: columns that must be there and hold text.
        nested: columns that must be there, of any type.
        optional: columns of any type that are read where they are; None for all columns.
    """

    text: tuple[str, ...] = ()
    nested: tuple[str, ...] = ()
    optional: tuple[str, ...] | None = ()

    def among(self, names: list[str], source: str) -> list[str]:
        """Those to read of a file that has the columns `names`.

        Raises:
            DataError: one that must be there is not.
        """
        needed = [*self.text, *self.nested]
        absent = [column for column in needed if column not in names]
        if absent:
            raise DataError(f"{source}: no column {absent[0]!r} (it has: {', '.join(names)})")
        if self.optional is None:
            return names
        return needed + [column for column in self.optional if column in names]


Reader = Callable[[Path, Columns], Iterator[Located]]

_UTF8_MARK = b"\xef\xbb\xbf"


def read_parquet(path: Path, columns: Columns) -> Iterator[Located]:
    row = 0
    try:
        with pq.ParquetFile(path) as file:
            names = columns.among(file.schema_arrow.names, str(path))
            for batch in file.iter_batches(columns=names, batch_size=1000):
                for values in rows_of_batch(batch, str(path), columns.text):
                    yield f"{path} row {row}", values
                    row += 1
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not readable as parquet from row {row} on: {first_line(error)}") from error


def read_json_lines(path: Path, columns: Columns) -> Iterator[Located]:
    """Bytes that are no text become half surrogates, so that only the values that hold them count as bad."""
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        location = f"{path} line {number}"
        yield location, _object(line.decode("utf-8", "surrogateescape"), location)


def read_json(path: Path, columns: Columns) -> Iterator[Located]:
    """One object, an array of objects, or JSON lines under the wrong name."""
    content = b"".join(_lines(path))
    if not content.lstrip().startswith(b"["):
        try:
            document = json.loads(content)
        except ValueError:  # several objects, or one that is not UTF-8
            yield from read_json_lines(path, columns)
            return
        if isinstance(document, dict):
            yield f"{path} row 0", document
            return
        raise DataError(f"{path}: expected objects, found {type(document).__name__}")
    try:
        document = json.loads(content)
    except ValueError as error:
        raise DataError(f"{path}: not a JSON array: {first_line(error)}") from error
    for row, values in enumerate(document):
        if not isinstance(values, dict):
            raise DataError(f"{path} row {row}: expected an object, found {type(values).__name__}")
        yield f"{path} row {row}", values


READERS: dict[str, Reader] = {
    ".parquet": read_parquet,
    ".jsonl": read_json_lines,
    ".jsonl.gz": read_json_lines,
    ".json": read_json,
    ".json.gz": read_json,
}


def reader_of(path: Path) -> Reader:
    for suffix, reader in READERS.items():
        if path.name.endswith(suffix):
            return reader
    raise DataError(f"{path}: unknown kind of file (known: {', '.join(READERS)})")


def _lines(path: Path) -> Iterator[bytes]:
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield line.removeprefix(_UTF8_MARK) if number == 1 else line
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} line {number + 1}: not readable: {first_line(error)}") from error


def _object(text: str, location: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else first_line(error)
        raise DataError(f"{location}: not JSON: {reason}") from error
    if not isinstance(values, dict):
        raise DataError(f"{location}: expected an object, found {type(values).__name__}")
    return values
