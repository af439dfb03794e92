"""Training with DFT, SFT, or any other registered objective over the log-probabilities of prompts and responses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from tensordict import TensorDict
from torch import Tensor

from verl_ext.objectives.registry import TokenLoss, get_objective
from verl_ext.trainer.supervised.loss import supervised_loss
from verl_ext.trainer.supervised.trainer import SupervisedTrainer


class DFTTrainer(SupervisedTrainer):
    """See `SupervisedTrainer`; the configuration is that of `dft_trainer.yaml`, the data sets are `SFTDataset`s."""

    def _token_loss(self) -> TokenLoss:
        return get_objective(self.config.objective.name)

    def _loss_function(self) -> Callable:
        return partial(supervised_loss, token_loss=self._token_loss(), reduction=self.config.objective.reduction)

    def _train_batch(self, step: int) -> TensorDict:
        return self._batch([self.train_dataset[row] for row in self.train_dataloader.local_rows(step)])

    def _validation_rows(self) -> int:
        return len(self.val_dataset)

    def _validation_row(self, row: int | None) -> dict[str, Tensor]:
        if row is not None:
            return self.val_dataset[row]
        filler = self.val_dataset[0]
        return filler | {"loss_mask": torch.zeros_like(filler["loss_mask"])}
