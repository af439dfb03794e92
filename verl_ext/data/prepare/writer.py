"""Writing the splits of a data set: all of them complete, or none changed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl_ext.data.prepare.report import SplitReport
from verl_ext.data.prepare.rows import add_messages, row_schema
from verl_ext.errors import DataError

_ROWS_PER_BATCH = 1000


def write_splits(
    local_dir: Path, splits: Iterable[tuple[SplitReport, Iterable[dict[str, Any]]]], *, with_messages: bool
) -> None:
    """Write each split to `local_dir/<split>.parquet` and fill its report.

    The files appear under their names only when every split is complete: a train file never stands
    beside the test file of another run, and a failure leaves what was there before. Equal rows give
    equal bytes.

    Raises:
        DataError: a split without a usable row, or a folder that cannot be written.
    """
    finished: list[tuple[Path, Path]] = []
    try:
        for report, rows in splits:
            path = local_dir / f"{report.split}.parquet"
            # Hidden, so that a glob over *.parquet never reads an unfinished file.
            temporary = local_dir / f".{path.name}.{os.getpid()}.unfinished"
            finished.append((temporary, path))
            _write(temporary, rows, report, with_messages=with_messages)
            if report.kept == 0:
                why = "; ".join(report.drops()) or "the source holds none"
                raise DataError(f"{path}: not written, no usable row: {why}")
        with _writing(local_dir):
            for temporary, path in finished:
                os.replace(temporary, path)
    finally:
        for temporary, _ in finished:
            if temporary.exists():
                temporary.unlink()


def _write(path: Path, rows: Iterable[dict[str, Any]], report: SplitReport, *, with_messages: bool) -> None:
    schema = row_schema(with_messages=with_messages)
    with _writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            with pq.ParquetWriter(file, schema) as writer:
                for batch in _batches(rows):
                    report.keep(batch)
                    if with_messages:
                        batch = [add_messages(row) for row in batch]
                    writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
            file.flush()
            os.fsync(file.fileno())  # a rename may reach the disk before the bytes do


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Readers raise `DataError` for their own faults, so what is left here is the output folder's."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    remaining = iter(rows)
    while batch := list(islice(remaining, _ROWS_PER_BATCH)):
        yield batch
