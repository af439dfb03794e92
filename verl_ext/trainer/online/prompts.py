"""Which prompts are generated next: a function of seed and position alone, so that a run resumes by one number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tensordict import TensorDict
from torch.utils.data import Dataset
from verl.utils import tensordict_utils as tu
from verl.utils.dataset.rl_dataset import collate_fn

from verl_ext.data.batching import GlobalBatches
from verl_ext.data.pass_rates import problem_id


class PromptStream:
    """The training prompts, in a new order every epoch, without end.

    Args:
        dataset: rows as verl's `RLHFDataset` gives them.
        seed: of the order.
        shuffle: False keeps the order of the files.
    """

    def __init__(self, dataset: Dataset, *, seed: int, shuffle: bool) -> None:
        self._dataset = dataset
        self._order = GlobalBatches(len(dataset), 1, seed=seed, shuffle=shuffle)
        self.position = 0
        """Prompts taken so far, over all epochs."""

    def take(self, num_prompts: int) -> TensorDict:
        """The next prompts; `uid` names each by its place in the stream, so that names sort in the order taken."""
        batch = self.at(range(self.position, self.position + num_prompts))
        self.position += num_prompts
        return batch

    def at(self, positions: Sequence[int]) -> TensorDict:
        """The prompts at these places of the stream."""
        rows = collate_fn([self._dataset[self._order.of_step(position)[0]] for position in positions])
        rows["uid"] = np.array([f"{position:010d}" for position in positions], dtype=object)
        return tu.get_tensordict(rows)

    def problems(self, uids: Sequence[str]) -> list[str]:
        """Ids of the problems behind these names (`verl_ext.data.pass_rates.problem_id`)."""
        rows = [self._dataset[self._order.of_step(int(uid))[0]] for uid in uids]
        return [problem_id(row["raw_prompt"], row["reward_model"]["ground_truth"]) for row in rows]


class EvaluationBatches:
    """The validation prompts, in their order, in batches of at most `batch_size`."""

    def __init__(self, dataset: Dataset, batch_size: int | None) -> None:
        self._dataset = dataset
        self._batch_size = batch_size or len(dataset)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for start in range(0, len(self._dataset), self._batch_size):
            stop = min(start + self._batch_size, len(self._dataset))
            yield collate_fn([self._dataset[row] for row in range(start, stop)])
