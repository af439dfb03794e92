"""Rows of an Arrow batch, with text decoded value by value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from verl_ext.errors import DataError


def rows_of_batch(batch: pa.RecordBatch, source: str) -> Iterator[dict[str, Any]]:
    """The rows of a batch whose columns all hold text.

    pyarrow decodes a column at once and fails for all rows where one is not UTF-8; here such a value
    stays bytes.

    Raises:
        DataError: a column of another type.
    """
    columns = {name: _texts(batch.column(name), name, source) for name in batch.schema.names}
    for row in range(batch.num_rows):
        yield {name: values[row] for name, values in columns.items()}


def _texts(column: pa.Array, name: str, source: str) -> list[str | bytes | None]:
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    if pa.types.is_null(column.type):
        return [None] * len(column)
    if not (_is_text(column.type) or _is_bytes(column.type)):
        raise DataError(f"{source}: column {name!r} holds {column.type}, expected text")
    return [None if value is None else _decoded(value) for value in column.cast(pa.large_binary()).to_pylist()]


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _decoded(value: bytes) -> str | bytes:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value
