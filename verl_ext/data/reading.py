"""Rows of parquet and JSON-lines files, and errors that name the file and the row.

Rows are counted from 0, as pandas and `datasets` count them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl_ext.errors import DataError, first_line

JSON_LINES_SUFFIXES = (".jsonl", ".json")
BATCH_ROWS = 1024
BATCH_BYTES = 16 * 2**20
"""Of the values that are decoded at a time, as the file's footer counts them."""
PART_BYTES = 2**18
"""Of arrow's arrays that become Python objects at a time."""
READ_BUFFER_BYTES = 2**20
SMALLER = 16
"""By so much batches shrink when one was too large."""
GZIP_MAGIC = b"\x1f\x8b"
HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")
"""An escape that is half of a pair; most have their other half beside them."""


def row_error(path: str | Path, row: int, problem: str) -> DataError:
    """The error of one bad row."""
    return DataError(f"{path}: row {row}: {problem}")


def require_files(key: str, paths: list[str]) -> None:
    """Check that every file of a configuration key exists and is of a kind that can be read.

    Raises:
        DataError: names the key and the first file that cannot be used.
    """
    if not paths:
        raise DataError(f"{key}: no file given")
    for path in paths:
        if not Path(path).is_file():
            what = "is a folder" if Path(path).is_dir() else "not found"
            raise DataError(f"{key}: {path} {what}; expected a parquet or JSON-lines file")
        if Path(path).suffix not in (".parquet", *JSON_LINES_SUFFIXES):
            raise DataError(f"{key}: {path} is neither .parquet nor .jsonl")


def require_text(path: str, row: int, column: str | None, value: Any) -> None:
    """Check that a column of a row holds text.

    Raises:
        DataError: says what it holds instead.
    """
    if not isinstance(value, str):
        found = "null" if value is None else type(value).__name__
        raise row_error(path, row, f"column {column!r} holds {found} where text was expected")


def iterate_rows(path: str) -> Iterator[dict[str, Any]]:
    """Rows of a parquet or JSON-lines file as plain dicts, in the order of the file.

    Raises:
        DataError: the file or a row of it cannot be read.
    """
    if path.endswith(".parquet"):
        yield from _parquet_rows(path)
    else:
        yield from _json_rows(path)


def column_names(path: str) -> list[str]:
    """Columns of the file; for JSON lines those of its first row."""
    if path.endswith(".parquet"):
        return list(_open_parquet(path).schema_arrow.names)
    return list(next(_json_rows(path), {}))


def _open_parquet(path: str) -> pq.ParquetFile:
    try:
        # Without a buffer size a whole column of a row group is fetched before its first row is there.
        return pq.ParquetFile(path, buffer_size=READ_BUFFER_BYTES)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({first_line(error)})") from error


def _parquet_rows(path: str) -> Iterator[dict[str, Any]]:
    file = _open_parquet(path)
    _require_different_names(path, file.schema_arrow.names)
    first = 0
    for group in range(file.num_row_groups):
        for batch in _batches(path, file, group, first):
            for part in _parts(batch):
                yield from _rows_of(path, part, first)
                first += part.num_rows


def _batches(path: str, file: pq.ParquetFile, group: int, first: int) -> Iterator[pa.RecordBatch]:
    """A row group in batches of a few megabytes.

    The sizes in the file's footer are those of encoded values, from which dictionaries hide repeated ones. More than
    2 GiB of text inside a nested column do not fit into one batch of arrow; then the rest is read in smaller ones.
    """
    about = file.metadata.row_group(group)
    rows = about.num_rows * BATCH_BYTES // max(about.total_byte_size, 1)
    rows = min(max(rows, 1), BATCH_ROWS)
    done = 0
    while True:
        skip = done
        try:
            for batch in file.iter_batches(rows, row_groups=[group]):
                wanted = batch.slice(min(skip, batch.num_rows))
                skip -= batch.num_rows - wanted.num_rows
                if wanted.num_rows:
                    yield wanted
                    done += wanted.num_rows
            return
        except pa.ArrowNotImplementedError as error:
            if rows == 1:
                raise row_error(path, first + done, f"too large to be read ({first_line(error)})") from error
            rows = max(rows // SMALLER, 1)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: damaged after row {first + done} ({first_line(error)})") from error


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Few rows at a time: as Python objects they take some ten times as much."""
    rows = max(batch.num_rows * PART_BYTES // max(batch.nbytes, 1), 1)
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def _rows_of(path: str, part: pa.RecordBatch, first: int) -> Iterator[dict[str, Any]]:
    try:
        rows = part.to_pylist()
    except UnicodeDecodeError as error:
        if part.num_rows == 1:
            raise row_error(path, first, "text is not UTF-8") from error
        for offset in range(part.num_rows):
            yield from _rows_of(path, part.slice(offset, 1), first + offset)
        return
    yield from rows


def _require_different_names(path: str, names: list[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: two columns are called {twice!r}")


def _json_rows(path: str) -> Iterator[dict[str, Any]]:
    with open(path, "rb") as file:
        if file.read(2) == GZIP_MAGIC:
            raise DataError(f"{path}: is compressed with gzip; unpack it")
        file.seek(0)
        for row, line in enumerate(file):
            if not line.strip():
                continue
            try:
                value = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise row_error(path, row, "text is not UTF-8") from error
            except json.JSONDecodeError as error:
                raise row_error(path, row, f"not JSON ({error.msg} at column {error.colno})") from error
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, a thousand brackets
                raise row_error(path, row, f"JSON that cannot be read ({first_line(error)})") from error
            if not isinstance(value, dict):
                raise row_error(path, row, f"expected an object, found {type(value).__name__}")
            if HALF_CHARACTER.search(line):
                _require_whole_characters(path, row, value)
            yield value


def _require_whole_characters(path: str, row: int, value: dict[str, Any]) -> None:
    """JSON can escape one half of a UTF-16 pair, which is no text: no tokenizer takes it."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise row_error(
            path, row, f"text holds half a character (\\u{ord(half):04x} without its other half)"
        ) from error
