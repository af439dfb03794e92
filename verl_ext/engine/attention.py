"""Attention over packed sequences: one function for every device, kernel and sequence-parallel size.

Tokens of several documents lie end to end; each token attends to the earlier tokens of its own document. Under
Ulysses sequence parallelism (arXiv 2309.14509) a rank holds a slice of the packed sequence and all heads; an
all-to-all turns that into the whole sequence and a slice of the heads, attention runs, and a second all-to-all
turns it back.

verl hooks Ulysses into flash-attn alone: with any other attention and more than one sequence-parallel rank,
training runs, each rank attends to its own slice, and the result is silently wrong. Hence this function, and
hence `verl_ext.trainer` refuses every other one there.

A document may share its beginning with an earlier one (`verl_ext.engine.shared_prompts`): then only its own tokens are
in the sequence, and they attend to the tokens that both begin with, and to themselves.

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
    """Where the pieces of a packed sequence start and end: documents, or what is left of one that shares its beginning."""

    cu_seqlens: Tensor
    """(pieces + 1,) int32 on the device of the tokens: starts, then the total."""
    boundaries: list[int]
    """The same on the host."""
    shared: SharedKeys | None = None
    """What pieces attend to beside themselves; None where every piece is a whole document."""

    @property
    def lengths(self) -> list[int]:
        return [end - start for start, end in zip(self.boundaries, self.boundaries[1:], strict=False)]

    @property
    def max_length(self) -> int:
        return max(self.lengths)

    @property
    def key_lengths(self) -> list[int]:
        """Tokens that the last token of each piece attends to."""
        return self.lengths if self.shared is None else self.shared.lengths

    @property
    def cu_key_lengths(self) -> Tensor:
        return self.cu_seqlens if self.shared is None else self.shared.cu_lengths

    @property
    def max_key_length(self) -> int:
        return max(self.key_lengths)

    @classmethod
    def from_boundaries(cls, boundaries: Tensor, shared: SharedKeys | None = None) -> Documents:
        return cls(boundaries.to(torch.int32), boundaries.tolist(), shared)


@dataclass(frozen=True)
class SharedKeys:
    """The keys and values of every piece end to end: those it shares with an earlier piece, then its own."""

    index: Tensor
    """Where each of them is in the packed sequence, int64 on the device of the tokens."""
    cu_lengths: Tensor
    """(pieces + 1,) int32 on that device: where the keys of each piece start, then how many there are."""
    lengths: list[int]


# All layers of a step share the position_ids tensor; its documents need one pass (and, on a GPU, one
# synchronisation and one all-gather) a step instead of one a layer.
_documents_of_position_ids = WeakTensorKeyDictionary()


def documents_from_position_ids(position_ids: Tensor) -> Documents:
    """The pieces that the positions of a packed sequence tell of.

    A piece starts wherever the position is not the one after the last. One that starts at 0 is a whole document; one
    that starts at s > 0 continues the first s tokens of the last whole one before it.

    Args:
        position_ids: (1, tokens of this rank).

    Raises:
        ValueError: a piece continues more tokens than the document before it has, or there is none.
    """
    if position_ids not in _documents_of_position_ids:
        sp_size = get_ulysses_sequence_parallel_world_size()
        whole = position_ids
        if sp_size > 1:
            slices = [torch.empty_like(position_ids) for _ in range(sp_size)]
            dist.all_gather(slices, position_ids.contiguous(), group=get_ulysses_sequence_parallel_group())
            whole = torch.cat(slices, dim=-1)
        _documents_of_position_ids[position_ids] = _pieces(whole[0])
    return _documents_of_position_ids[position_ids]


def _pieces(positions: Tensor) -> Documents:
    starts = F.pad(positions[1:] != positions[:-1] + 1, (1, 0), value=True).nonzero().flatten()
    boundaries = F.pad(starts, (0, 1), value=positions.numel())
    first_positions = positions[starts]
    if not bool(first_positions.any()):
        return Documents.from_boundaries(boundaries)
    index, lengths = [], []
    document = (0, 0)  # start and length of the last whole one
    host = boundaries.tolist()
    for start, end, prefix in zip(host, host[1:], first_positions.tolist(), strict=False):
        if prefix == 0:
            document = (start, end - start)
        if prefix > document[1]:
            raise ValueError(f"position_ids: a piece continues {prefix} tokens of a document of {document[1]}")
        index += [torch.arange(document[0], document[0] + prefix), torch.arange(start, end)]
        lengths.append(prefix + end - start)
    cu_lengths = F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).to(positions.device, torch.int32)
    return Documents.from_boundaries(boundaries, SharedKeys(torch.cat(index).to(positions.device), cu_lengths, lengths))


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
        documents: where the documents of the packed sequence lie, and what they share.
        scale: factor of the scores, usually head_dim ** -0.5.
        window: a token sees itself and the `window - 1` tokens before it; None for all.
        dropout: probability of dropping an attention weight.
        causal: whether later tokens are hidden.

    Returns:
        (tokens, heads, head_dim), in the dtype of `query`.

    Raises:
        NotImplementedError: documents share tokens, or there is a window, and later tokens are not hidden.
    """
    if window is not None and not causal:  # kernels differ in how far such a window reaches to the right
        raise NotImplementedError("a window is defined only where later tokens are hidden")
    if documents.shared is not None:
        if not causal:
            raise NotImplementedError("documents can share their beginning only where later tokens are hidden")
        key, value = (states.index_select(0, documents.shared.index) for states in (key, value))
    kernel = _sdpa_per_document
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        if _flash_attn_varlen_func is not None:
            kernel = _flash_attn
        elif _torch_varlen_attn is not None and dropout == 0.0:
            kernel = _torch_varlen
    return kernel(query, key, value, documents, scale=scale, window=window, dropout=dropout, causal=causal)


def _repeat_kv_heads(states: Tensor, repeats: int, head_dim: int) -> Tensor:
    return states if repeats == 1 else states.repeat_interleave(repeats, dim=head_dim)


# Each kernel below gets the keys and values of every piece end to end. Where a piece has fewer queries than keys, its
# last query belongs to its last key: the causal mask is aligned to the lower right.


def _sdpa_per_document(query, key, value, documents, *, scale, window, dropout, causal) -> Tensor:
    repeats = query.shape[1] // key.shape[1]
    query, key, value = (
        states.transpose(0, 1).unsqueeze(0)  # (1, heads, tokens, head_dim)
        for states in (query, _repeat_kv_heads(key, repeats, 1), _repeat_kv_heads(value, repeats, 1))
    )
    lengths, key_lengths = documents.lengths, documents.key_lengths
    # One split and not a slice a document: the gradient of a slice is as large as the whole.
    pieces = zip(
        query.split(lengths, dim=2), key.split(key_lengths, dim=2), value.split(key_lengths, dim=2), strict=True
    )
    outputs = []
    for own in pieces:
        mask = _mask(own[0].shape[2], own[1].shape[2], window, causal, query.device)
        outputs.append(
            F.scaled_dot_product_attention(
                *own, attn_mask=mask, dropout_p=dropout, is_causal=causal and mask is None, scale=scale
            )
        )
    return torch.cat(outputs, dim=2).squeeze(0).transpose(0, 1)


def _mask(queries: int, keys: int, window: int | None, causal: bool, device: torch.device) -> Tensor | None:
    """(queries, keys), True where a query sees a key; None where `is_causal` alone says it.

    torch's `is_causal` is aligned to the upper left, which is another mask where there are more keys than queries.
    """
    is_windowed = window is not None and window < keys
    if queries == keys and not is_windowed:
        return None
    distance = torch.arange(keys - queries, keys, device=device)[:, None] - torch.arange(keys, device=device)[None, :]
    seen = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    return seen & (distance < window) if is_windowed else seen


def _flash_attn(query, key, value, documents, *, scale, window, dropout, causal) -> Tensor:
    return _flash_attn_varlen_func(
        query,
        key,
        value,
        cu_seqlens_q=documents.cu_seqlens,
        cu_seqlens_k=documents.cu_key_lengths,
        max_seqlen_q=documents.max_length,
        max_seqlen_k=documents.max_key_length,
        dropout_p=dropout,
        softmax_scale=scale,
        causal=causal,
        window_size=(-1, -1) if window is None else (window - 1, 0),
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
    elif documents.shared is None and (window is None or window >= documents.max_length):
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
        documents.cu_key_lengths,
        documents.max_length,
        documents.max_key_length,
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
        position_ids: (1, tokens) of a packed row; see `documents_from_position_ids`.

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


def register_attention() -> None:
    """Make it known to transformers as `ATTENTION_NAME`."""
    AttentionInterface.register(ATTENTION_NAME, attention_forward)
    AttentionMaskInterface.register(ATTENTION_NAME, flash_attention_mask)
