"""Writing the splits of a data set: all of them complete, or none changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl_ext.data.prepare.decontamination import Decontamination
from verl_ext.data.prepare.rows import add_messages
from verl_ext.data.prepare.split_report import SplitReport
from verl_ext.errors import DataError

_ROWS_PER_BATCH = 1000


@dataclass(frozen=True)
class Split:
    """One split to write.

    Attributes:
        report: filled while the rows are written.
        rows: called once, when it is this split's turn.
        decontamination: what was removed from it, written beside it; None where nobody asked.
    """

    report: SplitReport
    rows: Callable[[], Iterable[dict[str, Any]]]
    decontamination: Decontamination | None = None

    def path(self, local_dir: Path) -> Path:
        return local_dir / f"{self.report.split}.parquet"

    def list_path(self, local_dir: Path) -> Path:
        """Of the list of removed rows."""
        return local_dir / f"{self.report.split}.decontamination.jsonl"


def write_splits(local_dir: Path, splits: Sequence[Split], schema: pa.Schema) -> None:
    """Write each split to `local_dir/<split>.parquet` and fill its report.

    The files appear under their names only when every split is complete: a train file never stands
    beside the test file of another run, and a failure leaves what was there before. Equal rows give
    equal bytes. A list of removed rows that an earlier run left, and that no longer holds, is deleted.

    Raises:
        DataError: a split without a usable row, or a folder that cannot be written.
    """
    finished: list[tuple[Path, Path]] = []

    def unfinished(path: Path) -> Path:
        # Hidden, so that a glob over *.parquet never reads an unfinished file.
        temporary = local_dir / f".{path.name}.{os.getpid()}.unfinished"
        finished.append((temporary, path))
        return temporary

    try:
        for split in splits:
            path = split.path(local_dir)
            _write(unfinished(path), split, schema)
            if split.report.kept == 0:
                why = "; ".join(split.report.drops()) or "the source holds none"
                raise DataError(f"{path}: not written, no usable row: {why}")
            if split.decontamination is not None:
                with _writing(local_dir):
                    list_path = unfinished(split.list_path(local_dir))
                    list_path.write_text(split.decontamination.json_lines(), encoding="utf-8")
        with _writing(local_dir):
            for temporary, path in finished:
                os.replace(temporary, path)
            for split in splits:
                if split.decontamination is None:
                    split.list_path(local_dir).unlink(missing_ok=True)
    finally:
        for temporary, _ in finished:
            if temporary.exists():
                temporary.unlink()


def _write(path: Path, split: Split, schema: pa.Schema) -> None:
    with _writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            with pq.ParquetWriter(file, schema) as writer:
                for batch in _batches(split.rows()):
                    split.report.keep(batch)
                    if "messages" in schema.names:
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
