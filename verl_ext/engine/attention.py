"""Attention over packed sequences: one function for every device, kernel and sequence-parallel size.

Tokens of several documents lie end to end; each token attends to the earlier tokens of its own document. Under
Ulysses sequence parallelism (arXiv 2309.14509) a rank holds a slice of the packed sequence and all heads; an
all-to-all turns that into the whole sequence and a slice of the heads, attention runs, and a second all-to-all
turns it back.

verl hooks Ulysses into flash-attn alone: with any other attention and more than one sequence-parallel rank,
training runs, each rank attends to its own slice, and the result is silently wrong. Hence this function, and
hence `verl_ext.trainer` refuses every other one there.

Kernels, in order of preference: flash-attn where installed, torch's own variable-length attention on CUDA, and
`scaled_dot_product_attention` document by document.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask
from verl.utils.ulysses import (
    gather_heads_scatter_seq,
    gather_seq_scatter_heads,
    get_ulysses_sequence_parallel_group,
    get_ulysses_sequence_parallel_world_size,
)

ATTENTION_NAME = "verl_ext_varlen"
"""Name under which transformers knows this attention (`attn_implementation`)."""


@dataclass(frozen=True)
class Documents:
    """Where each document of a packed sequence of `total` tokens starts and ends."""

    cu_seqlens: Tensor
    """(documents + 1,) int32 on the device of the tokens: starts, then the total."""
    boundaries: list[int]
    """The same on the host."""

    @property
    def lengths(self) -> list[int]:
        return [end - start for start, end in zip(self.boundaries, self.boundaries[1:], strict=False)]

    @property
    def max_length(self) -> int:
        return max(self.lengths)

    @classmethod
    def from_boundaries(cls, boundaries: Tensor) -> Documents:
        return cls(boundaries.to(torch.int32), boundaries.tolist())


# All layers of a step share the position_ids tensor; its documents need one pass (and, on a GPU, one
# synchronisation and one all-gather) a step instead of one a layer.
_documents_of_position_ids = WeakTensorKeyDictionary()


def documents_from_position_ids(position_ids: Tensor) -> Documents:
    """Documents start where position_ids is 0. `position_ids`: (1, tokens of this rank)."""
    if position_ids not in _documents_of_position_ids:
        sp_size = get_ulysses_sequence_parallel_world_size()
        whole = position_ids
        if sp_size > 1:
            slices = [torch.empty_like(position_ids) for _ in range(sp_size)]
            dist.all_gather(slices, position_ids.contiguous(), group=get_ulysses_sequence_parallel_group())
            whole = torch.cat(slices, dim=-1)
        starts = torch.nonzero(whole[0] == 0).flatten()
        if starts.numel() == 0 or starts[0] != 0:
            starts = F.pad(starts, (1, 0))
        _documents_of_position_ids[position_ids] = Documents.from_boundaries(
            F.pad(starts, (0, 1), value=whole.shape[-1])
        )
    return _documents_of_position_ids[position_ids]


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    documents: Documents,
    *,
    scale: float,
    window: int | None = None,
    dropout: float = 0.0,
    causal: bool = True,
) -> Tensor:
    """softmax(scale * Q K^T + mask) V within each document.

    Args:
        query: (tokens, heads, head_dim).
        key, value: (tokens, kv_heads, head_dim); heads must be a multiple of kv_heads.
        documents: where the documents of the packed sequence lie.
        scale: factor of the scores, usually head_dim ** -0.5.
        window: a token sees itself and the `window - 1` tokens before it; None for all.
        dropout: probability of dropping an attention weight.
        causal: whether later tokens are hidden.

    Returns:
        (tokens, heads, head_dim), in the dtype of `query`.
    """
    kernel = _sdpa_per_document
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        if _flash_attn_varlen_func is not None:
            kernel = _flash_attn
        elif _torch_varlen_attn is not None and dropout == 0.0:
            kernel = _torch_varlen
    return kernel(query, key, value, documents, scale=scale, window=window, dropout=dropout, causal=causal)


def _repeat_kv_heads(states: Tensor, repeats: int, head_dim: int) -> Tensor:
    return states if repeats == 1 else states.repeat_interleave(repeats, dim=head_dim)


def _sdpa_per_document(query, key, value, documents, *, scale, window, dropout, causal) -> Tensor:
    repeats = query.shape[1] // key.shape[1]
    query, key, value = (
        states.transpose(0, 1).unsqueeze(0)  # (1, heads, tokens, head_dim)
        for states in (query, _repeat_kv_heads(key, repeats, 1), _repeat_kv_heads(value, repeats, 1))
    )
    lengths = documents.lengths
    outputs = []
    # One split and not a slice a document: the gradient of a slice is as large as the whole.
    for own in zip(*(states.split(lengths, dim=2) for states in (query, key, value)), strict=True):
        length = own[0].shape[2]
        mask = None
        if window is not None and window < length:
            distance = torch.arange(length, device=query.device)
            distance = distance[:, None] - distance[None, :]
            mask = distance < window if not causal else (distance >= 0) & (distance < window)
        outputs.append(
            F.scaled_dot_product_attention(
                *own, attn_mask=mask, dropout_p=dropout, is_causal=causal and mask is None, scale=scale
            )
        )
    return torch.cat(outputs, dim=2).squeeze(0).transpose(0, 1)


def _flash_attn(query, key, value, documents, *, scale, window, dropout, causal) -> Tensor:
    return _flash_attn_varlen_func(
        query,
        key,
        value,
        cu_seqlens_q=documents.cu_seqlens,
        cu_seqlens_k=documents.cu_seqlens,
        max_seqlen_q=documents.max_length,
        max_seqlen_k=documents.max_length,
        dropout_p=dropout,
        softmax_scale=scale,
        causal=causal,
        window_size=(-1, -1) if window is None else (window - 1, 0 if causal else window - 1),
    )


def _torch_varlen(query, key, value, documents, *, scale, window, dropout, causal) -> Tensor:
    known = inspect.signature(_torch_varlen_attn).parameters
    if "scale" not in known:  # torch 2.10 always scales by head_dim ** -0.5
        query = query * (scale * math.sqrt(query.shape[-1]))
    repeats = query.shape[1] // key.shape[1]
    arguments = {"scale": scale} if "scale" in known else {}
    if "enable_gqa" in known:
        arguments["enable_gqa"] = repeats > 1
    else:
        key, value = (_repeat_kv_heads(states, repeats, 1) for states in (key, value))
    if "window_size" in known:
        left = -1 if window is None else window - 1
        arguments["window_size"] = (left, 0 if causal else left)
    elif window is None or window >= documents.max_length:
        arguments["is_causal"] = causal
    else:
        return _sdpa_per_document(
            query, key, value, documents, scale=scale, window=window, dropout=dropout, causal=causal
        )
    return _torch_varlen_attn(
        query,
        key,
        value,
        documents.cu_seqlens,
        documents.cu_seqlens,
        documents.max_length,
        documents.max_length,
        **arguments,
    )


def attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    position_ids: Tensor | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls in every layer.

    Args:
        query: (batch, heads, tokens, head_dim); key and value: (batch, kv_heads, tokens, head_dim).
        attention_mask: None where no token is padding (one packed row, or full rows), else (batch, tokens).
        position_ids: (1, tokens) of a packed row; 0 starts a document.

    Returns:
        (batch, tokens, heads, head_dim), and None for the weights, which are never formed.

    Raises:
        NotImplementedError: the model needs a cache, attention sinks or capped scores.
    """
    if query.shape[2] != key.shape[2]:
        raise NotImplementedError(f"attention {ATTENTION_NAME!r} trains; to generate, load the model with 'sdpa'")
    if softcap is not None or s_aux is not None:
        raise NotImplementedError(f"attention {ATTENTION_NAME!r} has neither capped scores nor attention sinks")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    options = {"scale": scale, "window": sliding_window, "dropout": dropout, "causal": causal}
    query, key, value = (states.transpose(1, 2) for states in (query, key, value))  # (batch, tokens, heads, head_dim)
    batch, tokens = query.shape[:2]

    if attention_mask is not None:  # rows padded on the right or left
        mask = attention_mask.bool()
        boundaries = F.pad(mask.sum(dim=1).cumsum(dim=0), (1, 0))
        documents = Documents.from_boundaries(boundaries)
        packed = packed_attention(query[mask], key[mask], value[mask], documents, **options)
        output = packed.new_zeros(batch, tokens, *packed.shape[1:])
        output[mask] = packed
        return output, None

    if batch > 1 or position_ids is None:  # full rows, one document each
        boundaries = torch.arange(0, batch * tokens + 1, tokens, device=query.device)
        documents = Documents.from_boundaries(boundaries)
        packed = packed_attention(*(states.flatten(0, 1) for states in (query, key, value)), documents, **options)
        return packed.unflatten(0, (batch, tokens)), None

    documents = documents_from_position_ids(position_ids)
    sp_size = get_ulysses_sequence_parallel_world_size()
    if sp_size > 1:
        # With fewer KV heads than ranks a KV head is repeated until the ranks can share them out evenly.
        repeats = math.lcm(key.shape[2], sp_size) // key.shape[2]
        key, value = (_repeat_kv_heads(states, repeats, 2) for states in (key, value))
        query, key, value = (gather_seq_scatter_heads(states, seq_dim=1, head_dim=2) for states in (query, key, value))
    output = packed_attention(query[0], key[0], value[0], documents, **options).unsqueeze(0)
    if sp_size > 1:
        output = gather_heads_scatter_seq(output, seq_dim=1, head_dim=2)
    return output, None


try:
    from flash_attn import flash_attn_varlen_func as _flash_attn_varlen_func
except ImportError:
    _flash_attn_varlen_func = None
try:
    from torch.nn.attention.varlen import varlen_attn as _torch_varlen_attn
except ImportError:
    _torch_varlen_attn = None

AttentionInterface.register(ATTENTION_NAME, attention_forward)
AttentionMaskInterface.register(ATTENTION_NAME, flash_attention_mask)
