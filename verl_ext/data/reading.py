"""Rows of parquet and JSON-lines files, and errors that name the file and the row.

Rows are counted from 0, as pandas and `datasets` count them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl_ext.errors import DataError

JSON_LINES_SUFFIXES = (".jsonl", ".json")
BATCH_ROWS = 1024


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
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({str(error).splitlines()[0]})") from error


def _parquet_rows(path: str) -> Iterator[dict[str, Any]]:
    first = 0
    try:
        for batch in _open_parquet(path).iter_batches(BATCH_ROWS):
            try:
                rows = batch.to_pylist()
            except UnicodeDecodeError:
                yield from _rows_until_bad_text(path, batch, first)
                return
            yield from rows
            first += len(rows)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: damaged after row {first} ({str(error).splitlines()[0]})") from error


def _rows_until_bad_text(path: str, batch: pa.RecordBatch, first: int) -> Iterator[dict[str, Any]]:
    for offset in range(batch.num_rows):
        try:
            yield batch.slice(offset, 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            raise row_error(path, first + offset, "text is not UTF-8") from error


def _json_rows(path: str) -> Iterator[dict[str, Any]]:
    with open(path, "rb") as file:
        for row, line in enumerate(file):
            if not line.strip():
                continue
            try:
                value = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise row_error(path, row, "text is not UTF-8") from error
            except json.JSONDecodeError as error:
                raise row_error(path, row, f"not JSON ({error.msg} at column {error.colno})") from error
            if not isinstance(value, dict):
                raise row_error(path, row, f"expected an object, found {type(value).__name__}")
            yield value
