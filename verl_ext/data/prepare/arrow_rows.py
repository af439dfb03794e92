"""Rows of an Arrow batch, with text decoded value by value."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa

from verl_ext.errors import DataError


def rows_of_batch(batch: pa.RecordBatch, source: str, text_columns: Collection[str]) -> Iterator[dict[str, Any]]:
    """The rows of a batch.

    pyarrow decodes a column at once and fails for all rows where one is not UTF-8; here such a value
    stays bytes (a list or struct that holds one becomes `b""`).

    Args:
        text_columns: those that must hold text.

    Raises:
        DataError: one of them is of another type.
    """
    columns = {}
    for name in batch.schema.names:
        column = batch.column(name)
        if isinstance(column, pa.DictionaryArray):
            column = column.dictionary_decode()
        if _is_text(column.type) or _is_bytes(column.type):
            columns[name] = _texts(column)
        elif name in text_columns and not pa.types.is_null(column.type):
            raise DataError(f"{source}: column {name!r} holds {column.type}, expected text")
        else:
            columns[name] = _values(column)
    for row in range(batch.num_rows):
        yield {name: values[row] for name, values in columns.items()}


def _values(column: pa.Array) -> list[Any]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return b""


def _texts(column: pa.Array) -> list[str | bytes | None]:
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
