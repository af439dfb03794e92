"""Options under which a launch runs and learns nothing, or not what its objective says."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from omegaconf import DictConfig, OmegaConf

from verl_ext.doctor.findings import Finding, Level
from verl_ext.doctor.launch import Trainer

HIGH_LEARNING_RATE = 1e-3
HIGH_ONLINE_LEARNING_RATE = 1e-4


def effect_findings(config: DictConfig, trainer: Trainer, *, steps: int | None) -> list[Finding]:
    """Everything of this kind that the configuration alone shows.

    Args:
        steps: of the whole run, where they are known.
    """
    found = list(_of_the_optimizer(config, trainer, steps))
    found += _of_lora(config, trainer)
    found += _of_validation(config, trainer)
    found += _of_checkpoints(config, steps)
    if trainer == "nft":
        found += _of_sampling(config)
        found += _of_the_online_objective(config)
    if trainer == "nft_offline":
        found += _of_the_offline_objective(config)
    return found


def _warning(key: str, message: str, fix: str, level: Level = "warning") -> Finding:
    return Finding("no-effect", level, key, message, fix)


def _of_the_optimizer(config: DictConfig, trainer: Trainer, steps: int | None) -> Iterator[Finding]:
    online = trainer == "nft"
    prefix = "actor_rollout_ref.actor.optim" if online else "optim"
    optim = config.actor_rollout_ref.actor.optim if online else config.optim
    lora = (config.actor_rollout_ref.model if online else config.model).lora_rank > 0
    if optim.lr == 0:
        yield _warning(f"{prefix}.lr", "0: no weight ever changes", "set a learning rate")
    high = HIGH_ONLINE_LEARNING_RATE if online else HIGH_LEARNING_RATE
    if optim.lr and optim.lr >= high and not lora:
        message = f"{optim.lr:g} is far above what all weights are trained with"
        yield Finding("learning-rate", "warning", f"{prefix}.lr", message, "mean it, or lower it (1e-6 to 1e-4)")
    key, clip = _clip(config, prefix, online)
    if clip is not None and clip == 0:
        yield _warning(key, "0: every gradient is scaled to nothing", "set it to 1.0")
    if optim.optimizer_impl == "torch.optim" and optim.weight_decay and optim.weight_decay >= 1:
        yield _warning(f"{prefix}.weight_decay", f"{optim.weight_decay:g} pulls the weights to 0", "set it below 1")
    rises = _scheduler_steps(config, trainer, steps)
    warmup = optim.lr_warmup_steps or 0
    if rises and warmup >= rises:
        message = f"{warmup} warm-up steps, and the schedule has {rises}: the learning rate is never reached"
        yield _warning(f"{prefix}.lr_warmup_steps", message, "lower it, or train longer")
    ratio = optim.lr_warmup_steps_ratio or 0
    if warmup <= 0 and ratio >= 1:
        message = f"{ratio:g} of all steps are warm-up: the learning rate is never reached"
        yield _warning(f"{prefix}.lr_warmup_steps_ratio", message, "set it below 1, such as 0.1")


def _clip(config: DictConfig, prefix: str, online: bool) -> tuple[str, float | None]:
    if online:
        return "actor_rollout_ref.actor.grad_clip", config.actor_rollout_ref.actor.grad_clip
    return f"{prefix}.clip_grad", config.optim.clip_grad


def _scheduler_steps(config: DictConfig, trainer: Trainer, steps: int | None) -> int | None:
    """Steps of the learning rate's schedule.

    Online, verl 0.9.1 takes one after the last mini-batch of an update, however many mini-batches and epochs it has
    (workers/engine_workers.py:308); `separate_async` makes `parameter_sync_step` updates in a step
    (trainer/ppo/v1/trainer_base.py:549).
    """
    if steps is None or trainer != "nft":
        return steps
    v1 = config.trainer.v1
    return steps * (v1.separate_async.parameter_sync_step if v1.trainer_mode == "nft_separate_async" else 1)


def _of_lora(config: DictConfig, trainer: Trainer) -> Iterator[Finding]:
    group = "actor_rollout_ref.model" if trainer == "nft" else "model"
    model = OmegaConf.select(config, group)
    if model.lora_rank > 0 and not model.lora_alpha:
        message = "0: the adapter is multiplied by lora_alpha / lora_rank = 0"
        yield _warning(f"{group}.lora_alpha", message, f"set it to {model.lora_rank} or {2 * model.lora_rank}")


def _of_validation(config: DictConfig, trainer: Trainer) -> Iterator[Finding]:
    train, val = ("rollouts", "val_rollouts") if trainer == "nft_offline" else ("train_files", "val_files")
    train_files, val_files = (_listed(config.data[name]) for name in (train, val))
    frequency = config.trainer.test_freq
    if frequency != -1 and not val_files and trainer != "nft":
        yield _warning(f"data.{val}", f"null: trainer.test_freq={frequency} has nothing to validate", f"set data.{val}")
    if shared := sorted(set(train_files) & set(val_files)):
        message = f"{', '.join(shared)} is trained on too: validation measures memory"
        yield Finding("leak", "warning", f"data.{val}", message, "validate on other problems")


def _of_checkpoints(config: DictConfig, steps: int | None) -> Iterator[Finding]:
    frequency = config.trainer.save_freq
    if steps and isinstance(frequency, int) and frequency > steps:
        message = f"{frequency}, and the run has {steps} steps: only the last one is saved"
        yield Finding("never-saves", "info", "trainer.save_freq", message, "lower it where a run may be killed")


def _of_sampling(config: DictConfig) -> Iterator[Finding]:
    rollout, prefix = config.actor_rollout_ref.rollout, "actor_rollout_ref.rollout"
    if rollout.temperature == 0:
        message = "0: all answers to a prompt are the same, and log-probabilities are divided by it"
        yield _warning(f"{prefix}.temperature", message, "set it to 1.0", "error")
    elif rollout.temperature < 0.5:
        message = f"{rollout.temperature:g}: answers to one prompt hardly differ, few groups hold right and wrong ones"
        yield _warning(f"{prefix}.temperature", message, "1.0 is the paper's")
    if rollout.top_k == 1 or (0 < rollout.top_p < 0.01):
        key = f"{prefix}.{'top_k' if rollout.top_k == 1 else 'top_p'}"
        yield _warning(key, "one token is left to choose from: all answers are the same", "top_k=-1 top_p=1.0")
    if not rollout.do_sample:
        yield _warning(f"{prefix}.do_sample", "False: all answers to a prompt are the same", "set it to True")
    if rollout.ignore_eos:
        message = "True: no answer ends before data.max_response_length"
        yield _warning(f"{prefix}.ignore_eos", message, "set it to False")


def _of_the_online_objective(config: DictConfig) -> Iterator[Finding]:
    actor, algorithm = config.actor_rollout_ref.actor, config.algorithm
    nft = actor.policy_loss.loss_mode == "nft"
    groups = algorithm.filter_groups
    if nft and not groups.enable:
        message = "False: groups that are all right or all wrong fill the batch and carry no loss"
        yield _warning("algorithm.filter_groups.enable", message, "set it to True")
    if (
        groups.enable
        and groups.max_num_gen_batches == 1
        and (config.data.gen_batch_size or 0) <= config.data.train_batch_size
    ):
        message = "1: a batch is generated once, and what is filtered out is not replaced"
        yield _warning(
            "algorithm.filter_groups.max_num_gen_batches", message, "set it to 10, or data.gen_batch_size higher"
        )
    if nft and config.reward.reward_manager.name not in ("math_verify_pool", "dapo"):
        message = f"{config.reward.reward_manager.name}: NFT takes whether an answer is right from the reward's `acc`"
        yield _warning("reward.reward_manager.name", message, "math_verify_pool, or a reward function that returns acc")
    if actor.use_kl_loss and not actor.kl_loss_coef:
        message = "0: a reference model takes memory and time for nothing"
        yield _warning("actor_rollout_ref.actor.kl_loss_coef", message, "actor_rollout_ref.actor.use_kl_loss=False")
    overlong = OmegaConf.select(config, "reward.reward_kwargs.overlong_buffer_cfg")
    if overlong and overlong.get("enable") and overlong.get("len") and overlong.len >= config.data.max_response_length:
        message = f"{overlong.len}: the length penalty begins with the first token"
        key = "reward.reward_kwargs.overlong_buffer_cfg.len"
        yield _warning(key, message, f"set it below data.max_response_length={config.data.max_response_length}")


def _of_the_offline_objective(config: DictConfig) -> Iterator[Finding]:
    objective = config.objective
    if objective.neg_weight == 0 and objective.prompt_weight != "uniform":
        message = "0 is RFT, whose paper weighs every prompt alike"
        fix = "objective.prompt_weight=uniform"
        yield Finding("objective-differs", "info", "objective.neg_weight", message, fix)
    if not math.isfinite(objective.eps):
        yield _warning("objective.eps", f"{objective.eps}: every ratio is clipped", "set it to 1.0")


def _listed(value: str | Sequence[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else [str(path) for path in value]
