"""What cannot work in the DFT trainer, found before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path

from omegaconf import DictConfig

from verl_ext.errors import ConfigError
from verl_ext.trainer.run.required import require_values
from verl_ext.trainer.supervised.checks import check_choice, check_common


def check_config(config: DictConfig, *, world_size: int) -> None:
    """Check everything that the configuration alone decides.

    Args:
        config: composed, resolved.
        world_size: ranks of the run.

    Raises:
        UserError: the first thing that cannot work.
    """
    require_values(config, {"model.path": "a model folder or hub id", "data.train_files": "a file or a list of files"})
    check_common(config, "dft_trainer", world_size=world_size)
    check_choice(config, "objective.reduction", ("token_mean", "published"))
    _check_objective(config)
    _check_batches(config, world_size)


def check_rows(config: DictConfig, num_rows: int) -> None:
    """Check that the training rows fill at least one batch.

    Raises:
        ConfigError: there are too few.
    """
    if num_rows < config.data.train_batch_size:
        raise ConfigError(
            "data.train_batch_size",
            given=config.data.train_batch_size,
            expected=f"at most {num_rows}, the usable rows of data.train_files",
        )


def _check_objective(config: DictConfig) -> None:
    from verl_ext.trainer.supervised.objective import complete_objective

    objective = complete_objective(config)
    needs = objective.needs
    if config.model.use_fused_kernels and (needs.top_k_entropy or needs.divergence is not None):
        raise ConfigError(
            "model.use_fused_kernels",
            given=True,
            expected=f"False with objective.name={config.objective.name}: verl's fused head gives log-probabilities alone",
        )
    if needs.weights and config.data.weights_key is None:
        raise ConfigError(
            "data.weights_key", given=None, expected=f"a column, which objective.name={config.objective.name} asks for"
        )
    if needs.reference and config.model.lora_adapter_path:
        _check_adapter_can_be_off(config)
    if config.objective.reduction == "published" and config.data.use_dynamic_bsz:
        raise ConfigError(
            "data.use_dynamic_bsz",
            given=True,
            expected="False with objective.reduction=published, which is a mean over micro-batches of equal row counts",
        )


def _check_adapter_can_be_off(config: DictConfig) -> None:
    """The reference is the model with its adapter off; biases of the model itself that were trained stay on."""
    file = Path(config.model.lora_adapter_path).expanduser() / "adapter_config.json"
    bias = json.loads(file.read_text()).get("bias", "none")
    if bias != "none":
        raise ConfigError(
            "model.lora_adapter_path",
            given=config.model.lora_adapter_path,
            expected=f"an adapter with bias=none (it has {bias}) with objective.name={config.objective.name}, whose "
            "reference is the model with the adapter off",
        )


def _check_batches(config: DictConfig, world_size: int) -> None:
    data = config.data
    dp_size = world_size // config.engine.ulysses_sequence_parallel_size
    if data.train_batch_size % dp_size:
        raise ConfigError(
            "data.train_batch_size",
            given=data.train_batch_size,
            expected=f"a multiple of {dp_size}, the data-parallel ranks",
        )
    rows_per_rank = data.train_batch_size // dp_size
    if data.use_dynamic_bsz:
        return
    if data.micro_batch_size_per_gpu > rows_per_rank:
        raise ConfigError(
            "data.micro_batch_size_per_gpu",
            given=data.micro_batch_size_per_gpu,
            expected=f"at most {rows_per_rank}, a rank's share of data.train_batch_size={data.train_batch_size}",
        )
    if rows_per_rank % data.micro_batch_size_per_gpu:
        raise ConfigError(
            "data.micro_batch_size_per_gpu",
            given=data.micro_batch_size_per_gpu,
            expected=f"a divisor of {rows_per_rank}, a rank's share of data.train_batch_size={data.train_batch_size}",
        )
