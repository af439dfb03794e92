"""A stop inside a step: what a checkpoint keeps of the step, so that the run that continues finishes the same one.

While groups are generated, those that are complete are kept and the prompts under way are generated again, with the
seeds that they had. From then on the step's rows are kept as they are, and how many mini-batches of the update are
done. Generation stops within a second; an update stops after the mini-batch in hand. Passes over the whole batch
between the two (old log-probs, a reference) are finished first.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from transfer_queue import KVBatchMeta

from verl_ext.trainer.online.group_files import get_rows, put_rows

UPDATE_FILE = "open_update.json"
ROWS_FILE = "open_update_rows.jsonl"


class StepInterruptedError(Exception):
    """The step in hand is not finished: a signal has come.

    Args:
        update: what is left of it, where generation is over.
    """

    def __init__(self, update: OpenUpdate | None = None) -> None:
        super().__init__("a signal has come")
        self.update = update


@dataclass
class OpenUpdate:
    """The rows of a step whose update has begun or is next."""

    keys: list[str]
    tags: list[dict[str, Any]]
    partition_id: str
    fields: list[str] | None
    mini_batches_done: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    """What the step has measured so far."""

    @classmethod
    def of(cls, batch: KVBatchMeta, mini_batches_done: int, metrics: dict[str, Any]) -> OpenUpdate:
        numbers = {
            name: float(value) for name, value in metrics.items() if np.isscalar(value) and not isinstance(value, str)
        }
        return cls(batch.keys, batch.tags, batch.partition_id, batch.fields, mini_batches_done, numbers)

    def metrics_with(self, measured: dict[str, float], mini_batches: int) -> dict[str, float]:
        """Metrics of the step's first `mini_batches`, of which this has the first and `measured` is of the others.

        Means, largest and smallest values go by their names, as verl reduces the mini-batches of one update.
        """
        share = self.mini_batches_done / max(mini_batches, 1)
        both = {}
        for name in self.metrics.keys() & measured.keys():
            before, after = self.metrics[name], measured[name]
            if "max" in name or "min" in name:
                both[name] = max(before, after) if "max" in name else min(before, after)
            else:
                both[name] = share * before + (1 - share) * after
        return {**self.metrics, **measured, **both}

    def batch(self) -> KVBatchMeta:
        """As verl's trainer hands it on."""
        return KVBatchMeta(keys=self.keys, tags=self.tags, partition_id=self.partition_id, fields=self.fields)

    def files(self) -> dict[str, str]:
        """What a checkpoint keeps: name -> text."""
        return {UPDATE_FILE: json.dumps(asdict(self)), ROWS_FILE: "".join(get_rows(self.keys, self.partition_id))}

    @classmethod
    def restore(cls, update: str, rows: str) -> OpenUpdate:
        """Put the rows back, from the texts of the two files."""
        restored = cls(**json.loads(update))
        put_rows(rows.splitlines(), restored.partition_id)
        return restored
