"""Offline NFT: several epochs of optimizer steps over graded generations, whose policy stays pi_old throughout."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor
from tqdm import tqdm
from verl.utils import tensordict_utils as tu

from verl_ext.data.batching import evaluation_batches
from verl_ext.data.rollout_dataset import RolloutDataset
from verl_ext.engine.shared_prompts import TOKENS_COMPUTED, TOKENS_OF_ROWS
from verl_ext.errors import UserError
from verl_ext.objectives.nft_config import NFTConfig
from verl_ext.objectives.nft_statistics import nft_metrics
from verl_ext.trainer.supervised import old_log_probs
from verl_ext.trainer.supervised.nft_loss import NFT_SUM_NAMES, nft_offline_loss
from verl_ext.trainer.supervised.trainer import SupervisedTrainer, token_means

RATE_QUANTILES = (0.1, 0.5, 0.9)

MICRO_BATCHES_AT_A_TIME = 8
"""Of responses whose old log-probabilities are computed between two looks at whether the run is to stop."""


class NFTOfflineTrainer(SupervisedTrainer):
    """See `SupervisedTrainer`; the configuration is that of `nft_offline.yaml`, the data sets are `RolloutDataset`s.

    A batch is made of groups: a prompt and its responses, whose correct rate is that of the whole group, on whichever
    ranks and in whichever micro-batches its responses end up.
    """

    @property
    def sum_names(self) -> tuple[str, ...]:
        names = (*NFT_SUM_NAMES, "sum_entropy") if self.config.trainer.log_entropy else NFT_SUM_NAMES
        return (*names, TOKENS_OF_ROWS, TOKENS_COMPUTED) if self.engine.share_prompts else names

    def _build_engine(self) -> None:
        super()._build_engine()
        self.engine.share_prompts = self.config.trainer.share_prompts

    def _loss_function(self) -> Callable:
        objective = self.config.objective
        settings = NFTConfig(**{name: objective[name] for name in NFTConfig.__dataclass_fields__})
        return partial(nft_offline_loss, settings=settings, reduction=objective.reduction)

    def _train_batch(self, step: int) -> TensorDict:
        rows = self._rows_of_step(step)
        share = self._padded_rows(len(rows)) // self.engine.get_data_parallel_size()
        first = self.engine.get_data_parallel_rank() * share
        own = rows[first : first + share]
        fillers = [self.train_dataset.filler()] * (share - len(own))
        data = self._batch([self.train_dataset.row(row) for row in own] + fillers)
        tu.assign_non_tensor(data, num_responses=len(rows))
        return data

    def _rows_of_step(self, step: int) -> list[int]:
        groups = self.train_dataloader.of_step(step)
        return [row for group in groups for row in self.train_dataset.rows_of(group)]

    def _padded_rows(self, rows: int) -> int:
        """So many that every rank gets as many, in whole micro-batches."""
        data = self.config.data
        unit = self.engine.get_data_parallel_size()
        if not data.use_dynamic_bsz:
            unit *= data.micro_batch_size_per_gpu
        return -(-rows // unit) * unit

    def _of_batch(self, step: int) -> dict[str, float]:
        dataset = self.train_dataset
        rows = self._rows_of_step(step)
        rates = [dataset.correct_rates[group] for group in self.train_dataloader.of_step(step)]
        quantiles = np.quantile(rates, RATE_QUANTILES).tolist()
        return {
            "tokens": sum(dataset.length_of(row) for row in rows),  # without fillers
            "responses": len(rows),
            "positive_share": sum(dataset.correct_of(row) for row in rows) / len(rows),
            **{f"correct_rate_p{100 * q:g}": value for q, value in zip(RATE_QUANTILES, quantiles, strict=True)},
        }

    def _means(self, sums: dict[str, Any]) -> dict[str, float]:
        means = token_means(sums) | nft_metrics(sums["statistics"])
        if "sum_entropy" in sums:
            means["entropy"] = sums["sum_entropy"] / max(sums["num_tokens"], 1.0)
        if TOKENS_COMPUTED in sums:
            means["share_of_tokens_computed"] = sums[TOKENS_COMPUTED] / sums[TOKENS_OF_ROWS]
        return means

    def _validation_rows(self) -> int:
        return self.val_dataset.num_rows

    def _validation_row(self, row: int | None) -> dict[str, Tensor]:
        return self.val_dataset.filler() if row is None else self.val_dataset.row(row)

    def _batch(self, rows: list[dict[str, Tensor]]) -> TensorDict:
        data = super()._batch(rows)
        tu.assign_non_tensor(
            data,
            temperature=self.config.data.temperature,
            calculate_entropy=self.config.trainer.log_entropy,
            num_responses=len(rows),
        )
        return data

    def _before_first_step(self) -> bool:
        """Get log pi_old where the files do not have it: kept from before, or of the weights that are loaded now.

        Raises:
            UserError: the run is to continue, but from other weights than it began with.
        """
        datasets = {"train": self.train_dataset, "val": self.val_dataset}
        missing = {name: data for name, data in datasets.items() if data is not None and not data.gives_old_log_probs}
        if not missing:
            return True
        start = old_log_probs.fingerprint_of_weights(self.engine.module)
        if self.checkpoint is not None and self.checkpoint.state.start_fingerprint not in ("", start):
            raise UserError(
                f"model.path: {self.config.model.path} does not hold the weights that the run in {self.checkpoint.path} "
                "began with, whose log-probabilities its loss needs; set it back, or start afresh with "
                "trainer.resume_mode=disable"
            )
        self.checkpoints.state = replace(self.state, start_fingerprint=start)
        return all(self._fill_in(name, data, start) for name, data in missing.items())

    def _fill_in(self, name: str, dataset: RolloutDataset, start: str) -> bool:
        """Give a data set its old log-probabilities; False when a signal came first."""
        folder = Path(self.config.trainer.default_local_dir)
        precision = self.config.engine.mixed_precision
        fingerprint = old_log_probs.fingerprint_of(
            {
                "weights": start,
                "data": dataset.fingerprint(),
                "temperature": self.config.data.temperature,
                "precision": (self.config.engine.model_dtype, precision and precision.param_dtype),
            }
        )
        count = int(dataset.response_lengths().sum())
        values = old_log_probs.load(folder, name, fingerprint, count, self.device_name)
        if values is None:
            self.log.note(f"{name}: computing log-probs of {dataset.num_rows} responses under the starting model")
            started = time.perf_counter()
            values = self._compute_old_log_probs(dataset, count)
            if values is None:
                received = self.interruption.received or "a signal on another rank"
                self.log.note(f"stopped before the first step by {received}; the same command starts again")
                return False
            old_log_probs.store(folder, name, fingerprint, values)
            self.log.note(f"{name}: {count} log-probs computed in {time.perf_counter() - started:.0f} s")
        dataset.old_log_probs = values.numpy()
        return True

    def _compute_old_log_probs(self, dataset: RolloutDataset, count: int) -> Tensor | None:
        """(count,) fp32, the same on every rank; None when a signal came first."""
        values = torch.zeros(count)
        first_tokens = np.cumsum([0, *dataset.response_lengths()])
        size = self.config.data.micro_batch_size_per_gpu * MICRO_BATCHES_AT_A_TIME
        dp_rank, dp_size = self.engine.get_data_parallel_rank(), self.engine.get_data_parallel_size()
        batches = list(evaluation_batches(dataset.num_rows, size, dp_rank, dp_size))
        hidden = self.rank != 0 or not sys.stderr.isatty()
        for rows in tqdm(batches, desc="old log-probs", unit="batch", position=1, leave=False, disable=hidden):
            if self.interruption.agreed(self.device_name):
                return None
            data = self._batch([dataset.filler() if row is None else dataset.row(row) for row in rows])
            tu.assign_non_tensor(data, compute_loss=False)  # all else as in training, so that R starts at 1
            output = self.training_client.infer_batch(data)
            if self._is_collecting:
                for row, log_probs in zip(rows, output["log_probs"].unbind(), strict=True):
                    if row is not None:
                        first, last = first_tokens[row : row + 2]
                        values[first:last] = log_probs[-1 - (last - first) : -1]
        old_log_probs.add_over_ranks(values, self.device_name)
        return values
