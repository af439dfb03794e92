"""Which run a checkpoint belongs to: a run goes on only as what it was.

A run is its resolved configuration, the contents of the files that it reads, and the weights that it starts from. Two
lists say what of the configuration may change while it goes on; everything else may not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from verl_ext.model_folder import read_hf_config, tokenizer_fingerprint, weights_fingerprint

FREE = (
    # where results go, which, and how often
    *("trainer.default_*_dir", "trainer.rollout_data_dir", "trainer.validation_data_dir", "trainer.esi_redundant_time"),
    *("trainer.project_name", "trainer.experiment_name", "trainer.logger", "trainer.log_*", "trainer.save_freq"),
    *("trainer.test_freq", "trainer.val_before_train", "trainer.val_only", "data.val_batch_size"),
    *("checkpoint.*", "actor_rollout_ref.actor.checkpoint.*"),
    # profiles and traces
    *("*profiler.*", "trainer.profile_interval", "*rollout.trace.*", "*rollout.prometheus.*", "*.disable_log_stats"),
    # limits after which a run gives up, and how many checkpoints it keeps
    "trainer.max_*",
    # what to continue from, and how far: the length is compared on its own
    *("trainer.resume_*", "trainer.extend_run", "trainer.total_*", "*optim.total_training_steps"),
    # machines and processes; training ranks are compared by their number
    *("trainer.nnodes", "trainer.n_gpus_per_node", "actor_rollout_ref.rollout.nnodes", "ray_kwargs.*"),
    *("actor_rollout_ref.rollout.n_gpus_per_node", "transfer_queue.*", "trainer.ray_wait_register_center_timeout"),
    *("data.*_workers", "actor_rollout_ref.rollout.agent.num_workers", "reward.num_workers"),
    *("reward.reward_kwargs.workers", "*.judge.base_url", "*.judge.api_key_env", "*.judge.concurrency"),
    *("*.judge.retries", "*.judge.backoff_s", "*.judge.cache_dir"),
    # what no trainer of this package reads
    "critic.*",
    # its text is model.custom_chat_template, which is compared
    "data.chat_template_file",
    # names of verl's classes, which a newer verl may move
    "*_target_",
)
"""Keys (with `*` for any text) that change no number of the training."""

MICRO_BATCHES = ("*micro_batch_size", "*micro_batch_size_per_gpu", "*max_token_len_per_gpu", "*use_dynamic_bsz")

ROUNDING = (
    *MICRO_BATCHES,
    "trainer.balance_batch",
    *("*.enable_gradient_checkpointing", "*.enable_activation_offload", "*.use_fused_kernels"),
    *("*.fused_kernel_options.*", "*.param_offload", "*.optimizer_offload", "*.reshard_after_forward"),
    *("*.forward_prefetch", "*.use_torch_compile", "*.entropy_from_logits_*", "*.entropy_checkpointing"),
    *("*.gpu_memory_utilization", "*rollout.enforce_eager", "*.cudagraph_capture_sizes", "*.free_cache_engine"),
    *("*.max_num_batched_tokens", "*.max_num_seqs", "*.enable_chunked_prefill", "*.enable_prefix_caching"),
    *("*rollout.tensor_model_parallel_size", "*rollout.data_parallel_size", "*rollout.layered_summon"),
)
"""Keys of memory and speed: they change sums by their rounding, and sampled answers with it, and nothing else."""

FILES = (
    *("data.train_files", "data.val_files", "data.rollouts", "data.val_rollouts"),
    *(
        "reward.custom_reward_function.path",
        "reward.reward_kwargs.judge.rubric_file",
        "reward.reward_kwargs.judge.prompts.*",
    ),
    "actor_rollout_ref.rollout.multi_turn.tool_config_path",
    *(
        "actor_rollout_ref.rollout.multi_turn.function_tool_path",
        "actor_rollout_ref.rollout.agent.agent_loop_config_path",
    ),
)
"""Keys (with `*` for any text) that name files, which are compared by their contents."""

MODEL_GROUPS = ("model", "actor_rollout_ref.model")

_BYTES_AT_A_TIME = 2**24
_LONGEST_SHOWN = 60
_ABSENT = "(not set)"


@dataclass(frozen=True)
class Content:
    """What a key names, by what is in it."""

    named: Any
    """The value of the key."""
    fingerprint: str


@dataclass(frozen=True)
class Identity:
    """What makes a run the run that it is; plain values, as JSON gives them back."""

    settings: dict[str, Any] = field(default_factory=dict)
    """Dotted key -> value, without the free ones."""
    rounding: dict[str, Any] = field(default_factory=dict)
    """The same of the keys that change numbers by their rounding alone."""
    contents: dict[str, Content] = field(default_factory=dict)
    """Dotted key -> what its files hold."""

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Identity:
        contents = {key: Content(**content) for key, content in saved["contents"].items()}
        return cls(saved["settings"], saved["rounding"], contents)

    def differences(self, saved: Identity, defaults: Mapping[str, Any]) -> list[str]:
        """What is not the same as in a saved run, a phrase each; nothing where this is that run.

        Args:
            defaults: dotted key -> value of the configuration that nobody has changed. A key that the saved run did
                not know yet, because this package is newer, is no difference while it has its default.
        """
        found = _changed(saved.settings, self.settings, defaults)
        for key in sorted(saved.contents.keys() | self.contents.keys()):
            theirs, ours = saved.contents.get(key), self.contents.get(key)
            if theirs is None or ours is None or theirs.fingerprint != ours.fingerprint:
                named = [_ABSENT if content is None else str(content.named) for content in (theirs, ours)]
                found.append(f"{key} holds something else ({named[0]} there, {named[1]} here)")
        return found

    def rounding_differences(self, saved: Identity, defaults: Mapping[str, Any]) -> list[str]:
        """The same of keys that may change, at the price of the last digits."""
        return _changed(saved.rounding, self.rounding, defaults)


def identity_of(config: DictConfig, *, ranks: int, device: str) -> Identity:
    """The run that a complete configuration asks for; reads all bytes of its data files and pieces of its weights.

    Args:
        config: composed, checked and completed.
        ranks: that train.
        device: that they train on.
    """
    values = flat(config)
    named = {key for key in values if _matches(key, FILES) or _names_model(key)}
    kept = {key: value for key, value in values.items() if key not in named and not _matches(key, FREE)}
    # The published reduction is a mean over micro-batches: their size is part of it.
    strict = MICRO_BATCHES if OmegaConf.select(config, "objective.reduction") == "published" else ()
    rounding = {key: kept.pop(key) for key in list(kept) if _matches(key, ROUNDING) and not _matches(key, strict)}
    kept |= {"number of ranks": ranks, "trainer.device": device}
    contents = {
        key: Content(values[key], _of_files(values[key])) for key in values if _matches(key, FILES) and values[key]
    }
    for group in MODEL_GROUPS:
        if OmegaConf.select(config, f"{group}.path") is not None:
            contents |= _of_model(group, OmegaConf.select(config, group))
    return Identity(kept, rounding, contents)


def flat(config: DictConfig) -> dict[str, Any]:
    """Dotted key -> value; lists are values."""
    return dict(_flat(OmegaConf.to_container(config, resolve=True), ""))


def _flat(values: Mapping[str, Any], prefix: str):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _matches(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _names_model(key: str) -> bool:
    names = ("path", "tokenizer_path", "lora_adapter_path")
    return any(key == f"{group}.{name}" for group in MODEL_GROUPS for name in names)


def _of_files(paths: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in paths if isinstance(paths, (list, ListConfig)) else [paths]:
        with Path(path).expanduser().open("rb") as file:
            of_file = hashlib.blake2b(digest_size=16)
            while piece := file.read(_BYTES_AT_A_TIME):
                of_file.update(piece)
        digest.update(of_file.digest())
    return digest.hexdigest()


def _of_model(group: str, model: DictConfig) -> dict[str, Content]:
    tokenizer = model.tokenizer_path or model.path
    named = {
        "path": (model.path, weights_fingerprint(Path(model.path).expanduser())),
        "tokenizer_path": (tokenizer, tokenizer_fingerprint(Path(tokenizer).expanduser())),
    }
    if adapter := model.get("lora_adapter_path"):
        folder = Path(adapter).expanduser()
        named["lora_adapter_path"] = (adapter, weights_fingerprint(folder, config_name="adapter_config.json"))
    return {
        f"{group}.{name}": Content(path, fingerprint or _of_hub(path, model))
        for name, (path, fingerprint) in named.items()
    }


def _of_hub(name: str, model: DictConfig) -> str:
    """A hub id by the revision that it has here, where its configuration tells one."""
    if name != model.path:
        return f"hub:{name}"
    revision = getattr(read_hf_config(name, trust_remote_code=model.trust_remote_code), "_commit_hash", None)
    return f"hub:{name}@{revision}"


def _changed(theirs: Mapping[str, Any], ours: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    found = []
    for key in sorted(theirs.keys() | ours.keys()):
        before = theirs[key] if key in theirs else defaults.get(key, _ABSENT)
        now = ours.get(key, _ABSENT)
        if before != now:
            found.append(f"{key} = {_shown(before)} there, {_shown(now)} here")
    return found


def _shown(value: Any) -> str:
    text = value if value == _ABSENT else str(value)
    if len(text) <= _LONGEST_SHOWN and "\n" not in text:
        return text
    return f"{text[:20]!r}... ({len(text)} characters, {hashlib.blake2b(text.encode(), digest_size=4).hexdigest()})"
