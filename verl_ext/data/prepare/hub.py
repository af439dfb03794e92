"""Rows of a data set of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from verl_ext.data.prepare.arrow_rows import rows_of_batch
from verl_ext.data.prepare.local_files import Columns
from verl_ext.errors import DataError, first_line


def load_split(hub_id: str, split: str, *, name: str | None = None, otherwise: str) -> Any:
    """A split of a data set as `datasets.Dataset`; downloaded into the cache of `datasets` the first time.

    Args:
        name: which of several data sets that share a repository.
        otherwise: how a local copy is read, for the error.

    Raises:
        DataError: it cannot be loaded.
    """
    # A second to import, and not needed for local files.
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        return load_dataset(hub_id, name, split=split)
    except (DatasetsError, OSError, ValueError) as error:
        reason = first_line(error)
        raise DataError(
            f"{hub_id} ({split}): not loaded: {reason} (a local copy is read instead: --source, data_dir)"
        ) from error


def read_hub(
    hub_id: str, split: str, columns: Columns, start: int, stop: int | None, *, name: str | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows `start` to `stop` (exclusive) of a split as (location, values by column).

    The whole data set is downloaded into the cache of `datasets` the first time.

    Args:
        name: which of several data sets that share a repository.

    Raises:
        DataError: it cannot be loaded, or lacks a column.
    """
    data = load_split(hub_id, split, name=name, otherwise="--source")
    names = columns.among(data.column_names, f"{hub_id} ({split})")
    stop = len(data) if stop is None else min(stop, len(data))
    wanted = data.select_columns(names).select(range(min(start, stop), stop)).with_format("arrow")
    row = start
    for table in wanted.iter(batch_size=1000):
        for batch in table.to_batches():
            for values in rows_of_batch(batch, hub_id, columns.text):
                yield f"{hub_id} {split} row {row}", values
                row += 1
