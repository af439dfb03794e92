"""Training with DFT, SFT, or any other registered objective over prompts and responses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.workers.engine import EngineRegistry

from verl_ext.engine.fsdp import NUM_COUNTED
from verl_ext.trainer.supervised.loss import SUM_NAMES, supervised_loss
from verl_ext.trainer.supervised.objective import objective_of
from verl_ext.trainer.supervised.old_policy import OldPolicy
from verl_ext.trainer.supervised.trainer import SupervisedTrainer, token_means


class DFTTrainer(SupervisedTrainer):
    """See `SupervisedTrainer`; the configuration is that of `dft_trainer.yaml`, the data sets are `SFTDataset`s."""

    sum_names = (*SUM_NAMES, NUM_COUNTED)

    def _build_engine(self) -> None:
        self.objective = objective_of(self.config)
        super()._build_engine()
        self.engine.objective = self.objective
        self.engine.weighted = self.config.data.weights_key is not None
        self.engine.mean_over_counted = self.config.objective.reduction == "token_mean"

    def _init_engine(self) -> None:
        super()._init_engine()
        needs = self.objective.needs
        if needs.reference and not self.config.model.lora_rank:
            self.engine.reference = self._frozen_engine()
        self.old_policy = OldPolicy(self, needs.old_log_probs) if needs.old_log_probs else None

    def _frozen_engine(self):
        """The model that the run started from, in the precision in which it computes, in the processor's memory."""
        mixed_precision = self.engine_config.mixed_precision
        precision = self.engine_config.model_dtype if mixed_precision is None else mixed_precision["param_dtype"]
        engine = EngineRegistry.new(
            model_type="language_model",
            backend=self.engine_config.strategy,
            model_config=self.model_config,
            engine_config=dataclasses.replace(self.engine_config, forward_only=True, model_dtype=precision),
            optimizer_config=self.optimizer_config,
            checkpoint_config=self.checkpoint_config,
        )
        engine.initialize()
        return engine

    def _loss_function(self) -> Callable:
        return partial(supervised_loss, objective=self.objective, reduction=self.config.objective.reduction)

    def _train_batch(self, step: int) -> TensorDict:
        rows = self._local_rows(step)
        if self.old_policy is not None:
            for row, old_log_probs in zip(rows, self.old_policy.of_step(step), strict=True):
                row["old_log_probs"] = old_log_probs
        return self._batch(rows)

    def _local_rows(self, step: int) -> list[dict[str, Tensor]]:
        return [self.train_dataset[row] for row in self.train_dataloader.local_rows(step)]

    def _means(self, sums: dict[str, Any]) -> dict[str, float]:
        """The loss is a mean over the tokens that the objective counts, all else one over all that are learned."""
        return token_means(sums) | {"loss": sums["sum_loss"] / max(sums[NUM_COUNTED], 1.0)}

    def _tensors_to_save(self, step: int) -> dict[str, Tensor]:
        return {} if self.old_policy is None else self.old_policy.state(step)

    def _load_tensors(self, tensors: dict[str, Tensor]) -> None:
        if self.old_policy is not None:
            self.old_policy.load_state(tensors)

    def _validation_rows(self) -> int:
        return len(self.val_dataset)

    def _validation_row(self, row: int | None) -> dict[str, Tensor]:
        if row is not None:
            return self.val_dataset[row]
        filler = self.val_dataset[0]
        return filler | {"loss_mask": torch.zeros_like(filler["loss_mask"])}
