"""Rows of a source: a local parquet, JSON-lines or JSON file, a folder of them, or the hub.

Every row knows where it comes from, so that a bad one can be named. Text is decoded here, row by
row, because one row that is not UTF-8 would otherwise fail a whole file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from verl_ext.data.prepare.hub import read_hub
from verl_ext.data.prepare.local_files import READERS, Columns, reader_of
from verl_ext.data.prepare.rows import BadRow
from verl_ext.errors import DataError

_SPLIT_NAMES = {"train", "test", "validation", "val", "dev"}


@dataclass(frozen=True)
class SourceRow:
    """A row as it was read, of which nothing is known yet.

    Attributes:
        location: file and row, for people.
        index: position in the split, from 0, bad rows included.
        values: by column; bytes where the text could not be decoded.
    """

    location: str
    index: int
    values: Mapping[str, Any]

    def text(self, column: str) -> str:
        """The text of `column`, unchanged.

        Raises:
            BadRow: there is no such text.
        """
        return as_text(self.value(column), column)

    def value(self, column: str) -> Any:
        """What `column` holds, of whatever type.

        Raises:
            BadRow: there is no such column, it is null, or text in it could not be decoded.
        """
        if column not in self.values:
            raise BadRow(f"no column {column!r}, only: {', '.join(sorted(self.values)) or 'none'}")
        value = self.values[column]
        if value is None:
            raise BadRow(f"{column} is null")
        if isinstance(value, bytes):
            raise BadRow(f"{column} is not UTF-8")
        return value


def as_text(value: Any, name: str) -> str:
    """`value`, once it is known to be text that can be written.

    Args:
        name: what the value is called in the error.

    Raises:
        BadRow: it is not.
    """
    if isinstance(value, bytes) or (isinstance(value, str) and not _encodes(value)):
        raise BadRow(f"{name} is not UTF-8")
    if not isinstance(value, str):
        raise BadRow(f"{name} is not a string but {type(value).__name__}")
    if not value.strip():
        raise BadRow(f"{name} is empty")
    return value


def read_source(
    source: Path | None,
    *,
    hub_id: str,
    hub_name: str | None = None,
    split: str,
    columns: Columns,
    only_split: bool = True,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[SourceRow]:
    """Rows `start` to `stop` (exclusive) of a split, in the order of the source.

    Args:
        source: a local file or folder; None for the data set `hub_id`.
        hub_name: which of several data sets that share the repository `hub_id`.
        columns: those that are needed; others are not read where the format allows it.
        only_split: no other split is read from this source, so that files without the name of a
            split in their path are taken for it.

    Raises:
        DataError: the source, or a row's place in it, cannot be read at all.
    """
    if source is None:
        numbered = read_hub(hub_id, split, columns, start, stop, name=hub_name)
    else:
        paths = _files_of_split(source, split, only_split=only_split)
        rows = (row for path in paths for row in reader_of(path)(path, columns))
        numbered = islice(rows, start, stop)
    for index, (location, values) in enumerate(numbered, start):
        yield SourceRow(location, index, values)


def _files_of_split(source: Path, split: str, *, only_split: bool) -> list[Path]:
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    if source.is_file():
        if not only_split:
            raise DataError(f"{source}: one file cannot be several splits; name the one that it is with --splits")
        return [source]
    splits = _data_files(source)
    if not splits:
        raise DataError(f"{source}: no data file in this folder (looked for {', '.join(READERS)})")
    named = sorted({name for name in splits.values() if name})
    if not named and only_split:
        return list(splits)
    chosen = [path for path, name in splits.items() if name == split]
    if not chosen:
        found = f"it has: {', '.join(named)}" if named else "no file is named after a split"
        raise DataError(f"{source}: no file of split {split!r} in this folder ({found})")
    return chosen


def splits_in(source: Path | None) -> set[str]:
    """The splits that files of a local folder are named after; none of a file or of the hub, which say nothing."""
    if source is None or not source.is_dir():
        return set()
    return {name for name in _data_files(source).values() if name}


def _data_files(folder: Path) -> dict[Path, str | None]:
    """{data file: the split that its path names}, in the order of their names"""
    files = sorted(path for path in folder.rglob("*") if _is_data(path.relative_to(folder)) and path.is_file())
    return {path: _split_named_by(path.relative_to(folder)) for path in files}


def _is_data(path: Path) -> bool:
    return path.name.endswith(tuple(READERS)) and not any(part.startswith(".") for part in path.parts)


def _split_named_by(path: Path) -> str | None:
    words: Iterable[str] = re.split(r"[^a-z]+", path.as_posix().lower())
    return next((word for word in words if word in _SPLIT_NAMES), None)


def _encodes(text: str) -> bool:
    """Whether `text` can be written: half of a surrogate pair, which JSON may spell, is no character."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
