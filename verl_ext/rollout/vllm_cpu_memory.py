"""Memory for vLLM's keys and values on a processor, by what the model needs and what is free.

vLLM itself would take a share of the whole machine (`gpu_memory_utilization`), and not start where less than that is
free, however small the model.
"""

from __future__ import annotations

import copy
import os

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from verl_ext.errors import UserError

BLOCK_TOKENS = 128
"""vLLM's pages on a processor."""
DEFAULT_SEQUENCES = 256
"""At a time, where nothing else is said."""
FIXED_BYTES = 1 << 30
"""For libraries and activations of a process."""
OPERATOR_VARIABLE = "VLLM_CPU_KVCACHE_SPACE"
"""vLLM's own, in GiB: whoever sets it decides."""


def cache_bytes_per_token(config: PretrainedConfig, dtype: torch.dtype) -> int:
    """Keys and values of one token in every layer."""
    config = config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * size * dtype.itemsize


def parameter_count(config: PretrainedConfig) -> int:
    """Of the whole model, without making it."""
    with torch.device("meta"):  # any attention that needs no package; the configuration keeps its own
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation="eager")
    return model.num_parameters()


def keys_and_values_bytes(
    config: PretrainedConfig,
    dtype: torch.dtype,
    *,
    sequences: int | None,
    length: int,
    free: int,
    share: float,
    reserved: int = 0,
    keys: tuple[str, str, str],
) -> int | None:
    """Bytes to ask vLLM for, or None where the operator has set vLLM's own variable.

    As much as `sequences` of full length need, and no more than `share` of what is free beside the weights.

    Args:
        config: of the model.
        dtype: that generation computes in.
        sequences: at a time; None for vLLM's usual number.
        length: tokens of the longest prompt with its response.
        free: bytes.
        share: above 0 and at most 1.
        reserved: bytes that others will need.
        keys: what the user calls dtype, length and share.

    Raises:
        UserError: not even one sequence has room.
    """
    if os.environ.get(OPERATOR_VARIABLE):
        return None
    of_one = -(-length // BLOCK_TOKENS) * BLOCK_TOKENS * cache_bytes_per_token(config, dtype)
    weights = parameter_count(config) * dtype.itemsize
    room = int((free - weights - reserved - FIXED_BYTES) * share)
    # One more page than is filled: vLLM keeps the first for itself.
    wanted = ((sequences or DEFAULT_SEQUENCES) + 1) * of_one
    if room < 2 * of_one:
        gib = 1 << 30
        others = f", training will take {reserved / gib:.1f}" if reserved else ""
        raise UserError(
            f"{keys[2]}: {free / gib:.1f} GiB are free, the weights take {weights / gib:.1f}{others}, and {share:g} of "
            f"what remains has no room for the keys and values of one answer of {length} tokens "
            f"({of_one / gib:.1f} GiB); end other processes, lower {keys[1]}, or set {keys[0]}=bfloat16"
        )
    return min(wanted, room)
