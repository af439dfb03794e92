"""How far a model's distribution is from a reference's, with no more than a chunk of either's logits at a time.

For each token, from the hidden states h and h' of both models and the weights W and W' of their heads:

    value = d(log softmax(W h), log softmax(W' h'))        log p = log softmax(W h)[label]

for any differentiable d over a row of the vocabulary. The logits of both are computed again in the backward pass, where
torch differentiates d; six matrix products of 2 T V H operations in all. Where there is more than one chunk the
gradient of W is summed in fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from verl_ext.engine.loss_head import CHUNK_BYTES, even_slices, inverse_temperature, wide_dtype
from verl_ext.objectives.objective import Divergence

_WIDE_COPIES = 6
"""Of a chunk of logits in fp32 that exist at a time: both models', their softmax, and what d keeps for its gradient."""


@dataclass(frozen=True)
class ReferenceHead:
    """What a reference model hands to its head, as the one linear map that the head is."""

    hidden_states: Tensor
    """(tokens, channels)."""
    weight: Tensor | None
    """(vocabulary, channels); None where it is the weight of the policy's own head, which does not learn."""


def head_divergence(
    hidden_states: Tensor,
    weight: Tensor,
    labels: Tensor,
    reference: ReferenceHead,
    divergence: Divergence,
    *,
    temperature: Tensor | float = 1.0,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Tensor, Tensor]:
    """log p of the labels, and the divergence of each token's distribution from the reference's.

    Args:
        hidden_states: (tokens, channels), any float dtype.
        weight: of the LM head, (vocabulary, channels), the same dtype.
        labels: (tokens,), token ids.
        reference: its head, of the same tokens, with a weight.
        divergence: see `Divergence`.
        temperature: of both models; one for all, or (tokens,).
        chunk_bytes: memory for logits.

    Returns:
        Two of (tokens,), fp32 (fp64 for fp64 inputs), which can be differentiated by hidden_states and weight.
    """
    scale = inverse_temperature(temperature, labels, wide_dtype(weight.dtype))
    return _Divergence.apply(
        *(hidden_states, weight, labels, scale), *(reference.hidden_states, reference.weight, divergence, chunk_bytes)
    )


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, labels, scale, reference_hidden, reference_weight, divergence, chunk_bytes):
        ctx.save_for_backward(hidden, weight, labels, scale, reference_hidden, reference_weight)
        ctx.divergence, ctx.chunk_bytes = divergence, chunk_bytes
        log_probs = hidden.new_empty(labels.shape[0], dtype=wide_dtype(weight.dtype))
        values = torch.empty_like(log_probs)
        with torch.autocast(hidden.device.type, enabled=False):
            for chunk in _chunks(labels, weight, chunk_bytes):
                dist = _log_dist(hidden[chunk] @ weight.t(), _of(scale, chunk))
                reference = _log_dist(reference_hidden[chunk] @ reference_weight.t(), _of(scale, chunk))
                log_probs[chunk] = dist.gather(1, labels[chunk].unsqueeze(1)).squeeze(1)
                values[chunk] = divergence(dist, reference)
        return log_probs, values

    @staticmethod
    @once_differentiable
    def backward(ctx, d_log_probs: Tensor, d_values: Tensor):
        hidden, weight, labels, scale, reference_hidden, reference_weight = ctx.saved_tensors
        chunks = list(_chunks(labels, weight, ctx.chunk_bytes))
        d_hidden = torch.zeros_like(hidden) if ctx.needs_input_grad[0] else None
        summed = wide_dtype(weight.dtype) if len(chunks) > 1 else weight.dtype
        d_weight = torch.zeros_like(weight, dtype=summed) if ctx.needs_input_grad[1] else None
        with torch.autocast(hidden.device.type, enabled=False):
            for chunk in chunks:
                reference = _log_dist(reference_hidden[chunk] @ reference_weight.t(), _of(scale, chunk))
                logits = hidden[chunk] @ weight.t()
                with torch.enable_grad():
                    logits.requires_grad_()
                    dist = _log_dist(logits, _of(scale, chunk))
                    outputs = (dist.gather(1, labels[chunk].unsqueeze(1)).squeeze(1), ctx.divergence(dist, reference))
                    (d_logits,) = torch.autograd.grad(outputs, logits, (d_log_probs[chunk], d_values[chunk]))
                if d_hidden is not None:
                    d_hidden[chunk] = d_logits @ weight
                if d_weight is not None:
                    d_weight += d_logits.t() @ hidden[chunk]
        return d_hidden, None if d_weight is None else d_weight.to(weight.dtype), *[None] * 6


def _chunks(labels: Tensor, weight: Tensor, chunk_bytes: int) -> Iterator[slice]:
    wide = wide_dtype(weight.dtype).itemsize
    yield from even_slices(
        labels.shape[0], chunk_bytes // (weight.shape[0] * (weight.element_size() + _WIDE_COPIES * wide))
    )


def _log_dist(logits: Tensor, scale: Tensor | None) -> Tensor:
    logits = logits.to(wide_dtype(logits.dtype))
    return (logits if scale is None else logits * scale.unsqueeze(1)).log_softmax(-1)


def _of(scale: Tensor | None, chunk: slice) -> Tensor | None:
    return None if scale is None else scale[chunk]
