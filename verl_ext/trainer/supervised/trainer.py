"""The training loop of every objective over log-probabilities of fixed data, on verl's SFT trainer and engine.

What verl's `SFTTrainer` and its engine bring: FSDP, mixed precision, LoRA, sequence parallelism, micro-batches,
optimizer, scheduler, sharded checkpoints. What is ours: the objective, batches that depend on seed and step alone,
validation on every row, checkpoints that are complete or absent, and an orderly end on a signal.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDict
from tensordict.tensorclass import NonTensorData
from torch import Tensor
from verl.trainer.sft_trainer import SFTTrainer
from verl.utils import tensordict_utils as tu
from verl.utils.dataset.dataset_utils import DatasetPadMode, SFTTensorCollator
from verl.utils.device import get_device_name, get_torch_device

from verl_ext.data.batching import GlobalBatches, evaluation_batches
from verl_ext.trainer.run import startup
from verl_ext.trainer.run.checkpoints import Checkpoint, Checkpoints, Progress, RunState
from verl_ext.trainer.run.exits import TrainingDivergedError
from verl_ext.trainer.run.interruption import Interruption
from verl_ext.trainer.run.log import RunLog
from verl_ext.trainer.run.quiet import prints_to_debug_log
from verl_ext.trainer.run.resume import nothing_to_do
from verl_ext.trainer.supervised.loss import SUM_NAMES


class SupervisedTrainer(SFTTrainer, ABC):
    """Training of a causal language model on fixed data; a subclass says with which loss on which rows.

    Args:
        config: composed, checked.
        train_dataset: what batches are made of; it has `len()` and `name(index)`.
        val_dataset: the same, or None for no validation.
        state: which run this is; checkpoints keep it.
        checkpoint: where to continue from, or None.
        interruption: notes signals that ask the run to stop.
    """

    def __init__(
        self,
        config: DictConfig,
        train_dataset: Any,
        val_dataset: Any | None,
        state: RunState,
        checkpoint: Checkpoint | None,
        interruption: Interruption,
    ) -> None:
        self.config = config
        self.train_dataset = train_dataset
        self.val_dataset = val_dataset
        self.state = state
        self.checkpoint = checkpoint
        self.interruption = interruption
        self.rank = dist.get_rank()
        self.device_name = get_device_name()
        torch.manual_seed(config.trainer.seed)

        with prints_to_debug_log():
            self._build_config()
            self._build_engine()
            self._build_dataloader()
            self._init_engine()
            self._build_ckpt_handler()

    sum_names: tuple[str, ...] = SUM_NAMES
    """Metrics of the loss function, which add up over micro-batches and ranks."""

    @abstractmethod
    def _loss_function(self) -> Callable:
        """What verl's engine calls once a micro-batch."""

    @abstractmethod
    def _train_batch(self, step: int) -> TensorDict:
        """This rank's share of the rows of a step (from 0)."""

    @abstractmethod
    def _validation_rows(self) -> int:
        """Rows of the validation data set."""

    @abstractmethod
    def _validation_row(self, row: int | None) -> dict[str, Tensor]:
        """A row; for None one that only keeps the ranks in step and carries no loss."""

    def _tensors_to_save(self, step: int) -> dict[str, Tensor]:
        """What this rank needs after so many steps to continue, beside the engine's state."""
        return {}

    def _load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `_tensors_to_save` gave."""

    def _before_first_step(self) -> bool:
        """What needs the weights that the run starts from, whether or not it then continues; False ends the run."""
        return True

    def _means(self, sums: dict[str, Any]) -> dict[str, float]:
        """From the sums of the loss function to what is logged."""
        return token_means(sums)

    def _of_batch(self, step: int) -> dict[str, float]:
        """What else is logged of the rows of a step (from 0), the same on every rank."""
        return {}

    def _build_engine(self) -> None:
        super()._build_engine()
        self.loss_fn = self._loss_function()
        self.training_client.set_loss_fn(loss_fn=self.loss_fn)

    def _build_dataloader(self) -> None:
        data = self.config.data
        self.collate = SFTTensorCollator(DatasetPadMode.NO_PADDING)
        self.train_dataloader = GlobalBatches(
            len(self.train_dataset),
            data.train_batch_size,
            seed=self.config.trainer.seed,
            shuffle=data.shuffle,
            dp_rank=self.engine.get_data_parallel_rank(),
            dp_size=self.engine.get_data_parallel_size(),
        )

    def _build_ckpt_handler(self) -> None:
        trainer = self.config.trainer
        self.checkpoints = Checkpoints(
            self.engine,
            self.state,
            trainer.default_local_dir,
            max_to_keep=trainer.max_ckpt_to_keep,
            hdfs_dir=trainer.default_hdfs_dir,
        )
        self.resume_global_step = 0 if self.checkpoint is None else self.checkpoint.step
        self.progress = Progress() if self.checkpoint is None else self.checkpoint.progress

    def fit(self) -> bool:
        """Train to the end, or until a signal.

        Returns:
            Whether the run is complete; False when a signal ended it early (it was saved then).

        Raises:
            TrainingDivergedError: `trainer.max_skipped_updates` updates in a row were skipped.
        """
        self.log = RunLog(
            OmegaConf.to_container(self.config, resolve=True),
            total_steps=self.total_training_steps,
            first_step=self.resume_global_step,
            active=self.rank == 0,
            headline=_headline,
            run_id=self.state.run_id,
        )
        self.log.note(f"loss head: {self.engine.loss_head}")
        try:
            if not self._before_first_step():
                return False
            if self.checkpoint is not None:
                self.checkpoints.load(self.checkpoint.path, extended=self.checkpoint.extended)
                self._load_tensors(self.checkpoints.tensors(self.checkpoint.path))
                self.log.note(f"continuing after step {self.resume_global_step} of {self.total_training_steps}")
            if self.resume_global_step >= self.total_training_steps:
                self._add_weights(self.checkpoint.path)  # killed after the last save, before its weights were written
                self.log.note(nothing_to_do(self.resume_global_step, self.total_training_steps))
                return True
            return self._run_steps()
        finally:
            self.log.close()

    def _run_steps(self) -> bool:
        progress = self.progress
        first_step = self.resume_global_step + 1
        startup.reached("log and checkpoint")
        self.log.note(startup.line())
        for step in range(first_step, self.total_training_steps + 1):
            metrics = self._train_step(step)
            skipped = not math.isfinite(metrics["train/grad_norm"])
            progress.skipped_updates += skipped
            progress.skipped_in_a_row = progress.skipped_in_a_row + 1 if skipped else 0
            progress.total_tokens += metrics["train/tokens"]
            metrics |= {
                "train/total_tokens": progress.total_tokens,
                "train/skipped_updates": progress.skipped_updates,
            }
            self.log.step(step, metrics | startup.metrics() if step == first_step else metrics)
            if skipped:
                self.log.note(f"step {step}: gradient is {metrics['train/grad_norm']}; the update was skipped")
            if progress.skipped_in_a_row >= self.config.trainer.max_skipped_updates:
                raise TrainingDivergedError(self._divergence(step))
            if self._after_step(step):
                return step == self.total_training_steps
        return True

    def _after_step(self, step: int) -> bool:
        """Validate and save as configured; whether the run ends here."""
        is_last = step == self.total_training_steps
        interrupted = self.interruption.agreed(self.device_name)
        if interrupted:  # whoever asked may not wait for a validation
            self._save(step, with_weights=True)
        if self.val_dataset is not None and (is_last or self._is_due(step, self.test_freq)):
            self.log.validation(step, self.validate())
        if not interrupted and (is_last or self._is_due(step, self.save_freq)):
            self._save(step, with_weights=is_last)
        if interrupted and not is_last:
            received = self.interruption.received or "a signal on another rank"
            self.log.note(f"stopped after step {step} by {received}; the same command continues from here")
        return interrupted or is_last

    def _save(self, step: int, *, with_weights: bool) -> None:
        path = self.checkpoints.save(step, self.progress, tensors=self._tensors_to_save(step))
        self.log.note(f"saved {path}")
        if with_weights:
            self._add_weights(path)
        self.checkpoints.copy_to_hdfs(path)

    def _add_weights(self, path: Path) -> None:
        self.checkpoints.add_weights(path)
        self.log.note(f"Hugging Face model in {path / 'huggingface'}")

    def _is_due(self, step: int, frequency: int) -> bool:
        return frequency > 0 and step % frequency == 0

    def _train_step(self, step: int) -> dict[str, float]:
        started = time.perf_counter()
        data = self._train_batch(step - 1)
        lengths = self._get_batch_seqlens(data=data)
        # A plain list would be taken for a stack of per-row values.
        tu.assign_non_tensor(data, update_lr_scheduler=True, global_token_num=NonTensorData(lengths))
        learning_rate = self.engine.lr_scheduler.get_last_lr()[0]
        self._profile_from(step)
        output = self.training_client.train_batch(data=data)
        self._profile_until(step)
        metrics = {}
        if self._is_collecting:
            verl_metrics = tu.get(output, "metrics")
            sums = self._sums(output)
            metrics = {f"train/{name}": value for name, value in self._means(sums).items()}
            metrics["train/loss"] = verl_metrics["loss"]  # as it was reduced
            metrics["train/grad_norm"] = verl_metrics["grad_norm"]
            metrics["train/response_tokens"] = sums["num_tokens"]
            if self.device_name != "cpu":
                metrics["perf/mfu"] = verl_metrics["mfu"]
        metrics = self._of_first_rank(metrics)
        seconds = time.perf_counter() - started
        tokens = sum(lengths)
        return {
            **metrics,
            "train/lr": learning_rate,
            "train/tokens": tokens,
            **{f"train/{name}": value for name, value in self._of_batch(step - 1).items()},
            "perf/seconds_per_step": seconds,
            "perf/tokens_per_second": tokens / seconds,
            "perf/max_memory_gb": get_torch_device().max_memory_allocated() / 1024**3,
        }

    def validate(self) -> dict[str, float]:
        """Means per learned token over every validation row, whatever the number of ranks."""
        sums: dict[str, Any] = {}
        for batch in self._evaluation_batches():
            output = self.training_client.infer_batch(batch)
            sums = {name: value + sums.get(name, 0.0) for name, value in self._sums(output).items()}
        means = self._means(sums) if self._is_collecting else {}
        return self._of_first_rank({f"val/{name}": value for name, value in means.items()})

    def _evaluation_batches(self) -> Iterator[TensorDict]:
        """This rank's share of all validation rows; every rank gets as many batches, of as many rows."""
        batches = evaluation_batches(
            self._validation_rows(),
            self.config.data.micro_batch_size_per_gpu,
            self.engine.get_data_parallel_rank(),
            self.engine.get_data_parallel_size(),
        )
        for rows in batches:
            yield self._batch([self._validation_row(row) for row in rows])

    def _batch(self, rows: list[dict[str, Tensor]]):
        data = self.config.data
        settings = {
            "use_remove_padding": self.config.model.use_remove_padding,
            "use_fused_kernels": self.config.model.use_fused_kernels,
            "only_learned": True,
            "use_dynamic_bsz": data.use_dynamic_bsz,
            "max_token_len_per_gpu": data.max_token_len_per_gpu,
            "micro_batch_size_per_gpu": data.micro_batch_size_per_gpu,
            "temperature": 1.0,
            "global_batch_size": len(rows) * self.engine.get_data_parallel_size(),
            "pad_mode": DatasetPadMode.NO_PADDING,
            "pad_token_id": self.model_config.tokenizer.pad_token_id,
        }
        return tu.get_tensordict(tensor_dict=self.collate(rows), non_tensor_dict=settings)

    @property
    def _is_collecting(self) -> bool:
        """Whether this rank gets outputs: the first of each sequence-parallel group."""
        return self.engine.is_mp_src_rank_with_outputs()

    def _sums(self, output: TensorDict | None) -> dict[str, Any]:
        """What the loss function added up, over all micro-batches and ranks; nothing on ranks without outputs."""
        if not self._is_collecting:
            return {}
        metrics = tu.get(output, "metrics")
        return {name: sum(value for of_rank in metrics[name] for value in of_rank) for name in self.sum_names}

    def _of_first_rank(self, metrics: dict[str, float]) -> dict[str, float]:
        """Give every rank the metrics of rank 0, so that all decide alike."""
        holder = [metrics]
        dist.broadcast_object_list(holder, src=0)
        return holder[0]

    def _divergence(self, step: int) -> str:
        rows = self.train_dataloader.of_step(step - 1)
        names = ", ".join(self.train_dataset.row_name(row) for row in rows)
        return (
            f"step {step}: the gradient was not finite in {self.progress.skipped_in_a_row} steps in a row "
            f"(trainer.max_skipped_updates); the last batch had the rows {names}"
        )

    def _profile_from(self, step: int) -> None:
        if step == self.start_profile_step:
            self.training_client.start_profile()

    def _profile_until(self, step: int) -> None:
        self.training_client.step_profile()
        if step == self.end_profile_step:
            self.training_client.stop_profile()


def _headline(metrics: dict[str, float]) -> str:
    return (
        f"loss {metrics['train/loss']:.4f}, p {metrics['train/target_prob']:.3f}, "
        f"gradient {metrics['train/grad_norm']:.3g}, lr {metrics['train/lr']:.3g}, "
        f"{metrics['perf/tokens_per_second']:.0f} tok/s"
    )


def token_means(sums: dict[str, float]) -> dict[str, float]:
    """Means per learned token of the sums of `supervised_loss`."""
    tokens = max(sums["num_tokens"], 1.0)
    names = {"loss": "sum_loss", "cross_entropy": "sum_cross_entropy", "target_prob": "sum_prob"}
    return {name: sums[total] / tokens for name, total in names.items()}
