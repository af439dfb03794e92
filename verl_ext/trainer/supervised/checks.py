"""What cannot work in any trainer on fixed data, found before a model is loaded.

Each check names the key, what it holds and what would do. `dft_checks` and `nft_offline_checks` have what is theirs.
"""

from __future__ import annotations

import os
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from verl_ext.errors import ConfigError, UserError
from verl_ext.model_folder import require_model_folder
from verl_ext.trainer.run.adapters import check_adapter_keys
from verl_ext.trainer.run.checkpoint_names import check_path
from verl_ext.trainer.run.profiling import check_profiler_device, check_supervised_profiler
from verl_ext.trainer.run.verl_keys import check_keys

OUR_ATTENTION = "verl_ext_varlen"  # verl_ext.engine.attention.ATTENTION_NAME, which importing torch would bring

POSITIVE_INTEGERS = (
    "data.train_batch_size",
    "data.micro_batch_size_per_gpu",
    "data.max_token_len_per_gpu",
    "engine.ulysses_sequence_parallel_size",
    "trainer.total_epochs",
    "trainer.max_skipped_updates",
)
CHOICES = {
    "engine.strategy": ("fsdp", "fsdp2"),
    "optim.lr_scheduler_type": ("constant", "cosine"),
    "trainer.resume_mode": ("auto", "disable", "resume_path"),
    "model.fused_kernel_options.impl_backend": ("torch", "triton", "liger"),
    "model.fused_kernel_options.loss_head": ("chunked", "plain"),
}


def check_common(config: DictConfig, trainer: str, *, world_size: int) -> None:
    """Check what the configuration alone decides and every trainer on fixed data shares.

    Args:
        config: composed, resolved.
        trainer: the name of its configuration.
        world_size: ranks of the run.

    Raises:
        UserError: the first thing that cannot work.
    """
    check_keys(config, trainer)
    for key in POSITIVE_INTEGERS:
        value = OmegaConf.select(config, key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(key, given=value, expected="a positive whole number")
    for key, choices in CHOICES.items():
        check_choice(config, key, choices)
    check_path(config.trainer)
    for key in ("trainer.test_freq", "trainer.save_freq"):
        value = OmegaConf.select(config, key)
        if value != "after_each_epoch" and (not isinstance(value, int) or value == 0 or value < -1):
            raise ConfigError(key, given=value, expected="a number of steps, -1 or after_each_epoch")
    if config.optim.lr is None or not config.optim.lr >= 0:
        raise ConfigError("optim.lr", given=config.optim.lr, expected="a learning rate of 0 or more")
    for contents in ("save_contents", "load_contents"):
        missing = {"model", "optimizer", "extra"} - set(config.checkpoint[contents] or ())
        if missing:
            raise ConfigError(
                f"checkpoint.{contents}",
                given=list(config.checkpoint[contents] or ()),
                expected=f"{', '.join(sorted(missing))} too, without which a run does not continue to the same numbers",
            )
    check_supervised_profiler(config)
    _check_loggers(config)
    _check_sequences(config, world_size)
    require_model_folder(config.model.path, tokenizer_path=config.model.tokenizer_path)
    check_adapter_keys(config.model, "model")
    if config.data.chat_template_file and not Path(config.data.chat_template_file).is_file():
        raise UserError(f"data.chat_template_file: {config.data.chat_template_file} not found")


def check_device(config: DictConfig, device: str) -> None:
    """Refuse what this device cannot do.

    Raises:
        ConfigError: names the key to change.
    """
    if config.trainer.device not in (None, device):
        raise ConfigError(
            "trainer.device",
            given=config.trainer.device,
            expected=f"{device}, which this machine has (the environment variable VERL_PLATFORM overrides it)",
        )
    sp_size = config.engine.ulysses_sequence_parallel_size
    attention = config.model.override_config.get("attn_implementation", OUR_ATTENTION)
    if sp_size > 1 and attention != OUR_ATTENTION:
        raise ConfigError(
            "model.override_config.attn_implementation",
            given=attention,
            expected=f"{OUR_ATTENTION} (the default), because with engine.ulysses_sequence_parallel_size={sp_size} any "
            "other attention sees a slice of the sequence only",
        )
    check_profiler_device(config, device)
    if device != "cpu":
        return
    refused = {
        "model.use_liger": (True, "False: Liger's kernels are Triton and need a GPU"),
        "model.enable_activation_offload": (True, "False: there is no device to offload activations from"),
    }
    for key, (value, expected) in refused.items():
        if OmegaConf.select(config, key) == value:
            raise ConfigError(key, given=value, expected=f"{expected} (this run is on the CPU)")
    backend = config.model.fused_kernel_options.impl_backend
    if config.model.use_fused_kernels and backend != "torch":
        raise ConfigError(
            "model.fused_kernel_options.impl_backend",
            given=backend,
            expected="torch: the others are Triton kernels and need a GPU (this run is on the CPU)",
        )
    if attention.startswith("flash_attention"):
        raise ConfigError(
            "model.override_config.attn_implementation",
            given=attention,
            expected=f"{OUR_ATTENTION} (the default): flash-attn needs a GPU (this run is on the CPU)",
        )


def check_choice(config: DictConfig, key: str, choices: tuple[str, ...]) -> None:
    """Check that a key holds one of some names.

    Raises:
        ConfigError: it does not.
    """
    value = OmegaConf.select(config, key)
    if value not in choices:
        raise ConfigError(key, given=value, expected=" or ".join(choices))


def _check_loggers(config: DictConfig) -> None:
    known = (
        *("console", "tensorboard", "wandb", "mlflow", "swanlab", "vemlp_wandb"),
        *("clearml", "trackio", "file", "rl_insight"),
    )
    loggers = config.trainer.logger
    for name in [loggers] if isinstance(loggers, str) else loggers:
        if name not in known:
            raise ConfigError("trainer.logger", given=name, expected=f"some of {', '.join(known)}")


def _check_sequences(config: DictConfig, world_size: int) -> None:
    data = config.data
    sp_size = config.engine.ulysses_sequence_parallel_size
    if world_size % sp_size:
        raise ConfigError(
            "engine.ulysses_sequence_parallel_size", given=sp_size, expected=f"a divisor of the {world_size} ranks"
        )
    if sp_size > 1 and not config.model.use_remove_padding:
        raise ConfigError(
            "model.use_remove_padding", given=False, expected="True with sequence parallelism, which packs sequences"
        )
    if data.use_dynamic_bsz and data.max_token_len_per_gpu * sp_size < data.max_length:
        raise ConfigError(
            "data.max_token_len_per_gpu",
            given=data.max_token_len_per_gpu,
            expected=f"at least {-(-data.max_length // sp_size)}, so that a row of data.max_length="
            f"{data.max_length} tokens fits",
        )


def ranks_from_environment() -> int:
    """World size that torchrun announces; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))
