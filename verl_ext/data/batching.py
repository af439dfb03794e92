"""Which rows make a batch: a function of seed, epoch and step alone.

The global batch of a step is the same whatever the number of ranks, and a run resumes by counting steps: no state
of a sampler or of worker processes has to be saved.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch


class GlobalBatches:
    """Batches of `batch_size` rows, in a new order every epoch; the last incomplete batch of an epoch is left out.

    Args:
        num_rows: rows of the data set.
        batch_size: rows of a global batch, a multiple of `dp_size`.
        seed: of the order, with the epoch added to it.
        shuffle: False keeps the order of the files.
        dp_rank, dp_size: this rank's place among those that see different rows.
    """

    def __init__(
        self, num_rows: int, batch_size: int, *, seed: int, shuffle: bool = True, dp_rank: int = 0, dp_size: int = 1
    ) -> None:
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.dp_rank = dp_rank
        self.dp_size = dp_size

    def __len__(self) -> int:
        """Steps of an epoch."""
        return self.num_rows // self.batch_size

    def of_step(self, step: int) -> list[int]:
        """Rows of the global batch of a step (from 0), across epochs."""
        epoch, batch = divmod(step, len(self))
        return self._order(epoch)[batch * self.batch_size : (batch + 1) * self.batch_size]

    def local_rows(self, step: int) -> list[int]:
        """This rank's rows of the step, an equal share for every rank."""
        per_rank = self.batch_size // self.dp_size
        return self.of_step(step)[self.dp_rank * per_rank : (self.dp_rank + 1) * per_rank]

    def _order(self, epoch: int) -> list[int]:
        if not self.shuffle:
            return list(range(self.num_rows))
        if getattr(self, "_cached_epoch", None) != epoch:
            generator = torch.Generator().manual_seed(self.seed + epoch)
            self._cached_order = torch.randperm(self.num_rows, generator=generator).tolist()
            self._cached_epoch = epoch
        return self._cached_order


def evaluation_batches(num_rows: int, batch_size: int, dp_rank: int, dp_size: int) -> Iterator[list[int | None]]:
    """This rank's share of every row, in batches of at most `batch_size` rows per rank.

    All ranks get the same number of batches of the same sizes, as collectives demand; None stands for a row that
    only fills up and must carry no loss.
    """
    for start in range(0, num_rows, batch_size * dp_size):
        first = start + dp_rank * batch_size
        yield [row if row < num_rows else None for row in range(first, first + batch_size)]
