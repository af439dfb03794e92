"""From hidden states and the weight of the LM head to log-probabilities, with no more than a chunk of logits at a time.

With T tokens, V words, H channels, hidden states h_t, weight rows w_v, label y, temperature tau and

    l_tv = h_t . w_v / tau        lse_t = log sum_v exp(l_tv)        log p_t = l_ty - lse_t

the gradient of a loss L reaches the logits as dL/dl_tv = g_t (1[v = y] - p_tv) with g_t = dL/dlog p_t, and from there
dL/dh = dL/dl W / tau and dL/dW = dL/dl^T h / tau: three matrix products of 2 T V H operations each, if g_t is known as
soon as log p_t is. It usually is not, and the logits are computed a second time in the backward pass: four products;
where all of them are one chunk they are kept for it instead.

An objective over single tokens (DFT: g_t = -p_t, SFT: g_t = -1) gives g_t up to one factor, the normalisation, though.
So where the caller names the objective, both gradients are computed while the chunk is at hand, and the backward pass
only has to multiply them by that factor. It first compares the gradient that arrives with the one that was expected;
if they are not proportional, it computes anew. That is a matter of time and never of the result.

    forward     over chunks of tokens, each with the whole vocabulary
    backward    over blocks of the vocabulary, each with all tokens: a block of dL/dW is a single product

On a processor a chunk's softmax is taken a few rows at a time, which stay in its cache. Matrix products are in the
precision of the weight, as in the model; everything after them is in fp32 (fp64 stays fp64).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 320 * 2**20
"""Of logits that exist at a time, with what else is as large: 1,024 tokens of 151,936 words in bf16 are one chunk."""

PROPORTIONAL = 1e-6
"""Largest relative difference of two gradients that fp32 rounding may have caused."""

_CACHED_ELEMENTS = 2**19  # fp32 values of a thread's share of rows: 2 MiB, and as much for their softmax
_ACCUMULATED_ROWS = 2048  # of dL/dW that are added at a time: a product of few MiB that is still in the cache


@dataclass(frozen=True)
class _Plan:
    with_entropy: bool
    top_k: int
    learns: bool
    token_loss: Callable[..., Tensor] | None
    chunk_bytes: int


@dataclass(frozen=True)
class HeadOutputs:
    """What the head says of each token, (tokens,) each, in nats, fp32 (fp64 for fp64 inputs); None if not asked for."""

    log_probs: Tensor
    entropy: Tensor | None = None
    top_k_entropy: Tensor | None = None


def head_log_probs(
    hidden_states: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    temperature: Tensor | float = 1.0,
    with_entropy: bool = False,
    token_loss: Callable[[Tensor], Tensor] | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Tensor, Tensor | None]:
    """log softmax(hidden_states @ weight.T / temperature)[labels], and the entropy of that distribution.

    Args:
        hidden_states: (tokens, channels), any float dtype.
        weight: of the LM head, (vocabulary, channels), the same dtype.
        labels: (tokens,), token ids.
        temperature: one for all, or (tokens,).
        with_entropy: compute the entropy too.
        token_loss: the loss of each token as a function of its log-probability, elementwise, where the loss to be
            differentiated is a multiple of these losses' sum. A hint that saves a product, see above.
        chunk_bytes: memory for logits.

    Returns:
        log-probabilities (tokens,) and the entropy (tokens,) or None, in nats, fp32 (fp64 for fp64 inputs). Both can
        be differentiated by hidden_states and weight.

    Raises:
        ValueError: shapes or dtypes that do not fit.
    """
    outputs = head_outputs(
        *(hidden_states, weight, labels),
        temperature=temperature,
        with_entropy=with_entropy,
        token_loss=token_loss,
        chunk_bytes=chunk_bytes,
    )
    return outputs.log_probs, outputs.entropy


def head_outputs(
    hidden_states: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    temperature: Tensor | float = 1.0,
    with_entropy: bool = False,
    top_k: int = 0,
    token_loss: Callable[..., Tensor] | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> HeadOutputs:
    """The same, and `top_k_entropy` of the `top_k` likeliest words, which carries no gradient.

    With `top_k`, `token_loss` gets that entropy as its second argument.
    """
    if hidden_states.dim() != 2 or weight.dim() != 2 or labels.shape != hidden_states.shape[:1]:
        raise ValueError(
            f"hidden_states {tuple(hidden_states.shape)}, weight {tuple(weight.shape)} and labels "
            f"{tuple(labels.shape)}: expected (tokens, channels), (vocabulary, channels) and (tokens,)"
        )
    if hidden_states.dtype != weight.dtype:
        raise ValueError(f"hidden_states are {hidden_states.dtype}, weight is {weight.dtype}: expected the same")
    scale = inverse_temperature(temperature, labels, wide_dtype(weight.dtype))
    learns = torch.is_grad_enabled() and (hidden_states.requires_grad or weight.requires_grad)
    plan = _Plan(with_entropy, min(top_k, weight.shape[0]), learns, token_loss if learns else None, chunk_bytes)
    return HeadOutputs(*_LogProbs.apply(hidden_states, weight, labels, scale, plan))


def inverse_temperature(temperature: Tensor | float, labels: Tensor, dtype: torch.dtype) -> Tensor | None:
    """1 / temperature of each token, (tokens,), or None where it is 1 for all."""
    if isinstance(temperature, Tensor):
        return (1.0 / temperature.to(dtype)).expand(labels.shape[0])
    if temperature == 1.0:
        return None
    return torch.full(labels.shape, 1.0 / temperature, dtype=dtype, device=labels.device)


def top_k_entropy(logits: Tensor, k: int) -> Tensor:
    """Entropy of the k likeliest words, their probabilities made to sum to one; (..., vocabulary) to (...), no gradient."""
    log_probs = logits.detach().topk(k, dim=-1).values.log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum(-1)


class _LogProbs(torch.autograd.Function):
    """See the head of this file; `scale` is 1 / temperature of each token, or None for 1."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, labels: Tensor, scale: Tensor | None, plan: _Plan):
        with torch.autocast(hidden.device.type, enabled=False):
            result = _Forward(hidden, weight, labels, scale, plan, needs=ctx.needs_input_grad[:2])
            result.run()
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(hidden, weight, labels, scale, result.lse, result.entropy)
        ctx.plan = plan
        ctx.ready, ctx.kept = result.ready(), result.kept
        if result.top_k_entropy is not None:
            ctx.mark_non_differentiable(result.top_k_entropy)
        return result.log_probs, result.entropy, result.top_k_entropy

    @staticmethod
    @once_differentiable
    def backward(ctx, d_log_probs: Tensor | None, d_entropy: Tensor | None, _d_top_k_entropy: Tensor | None):
        if d_log_probs is None and d_entropy is None:
            return None, None, None, None, None
        ready, ctx.ready = ctx.ready, None  # used up: a second backward pass computes anew
        if ready is not None and d_entropy is None:
            factor = _factor_between(ready.expected, d_log_probs)
            if factor is not None:
                return *ready.times(factor), None, None, None
        del ready
        kept, ctx.kept = ctx.kept, None
        hidden, weight, labels, scale, lse, entropy = ctx.saved_tensors
        with torch.autocast(hidden.device.type, enabled=False):
            gradients = _gradients(
                hidden,
                weight,
                labels,
                scale,
                lse,
                entropy,
                d_log_probs,
                d_entropy,
                needs=ctx.needs_input_grad[:2],
                chunk_bytes=ctx.plan.chunk_bytes,
                kept=kept,
            )
        return *gradients, None, None, None


@dataclass
class _Ready:
    """Gradients for the expected dL/dlog p, which wait for its factor."""

    expected: Tensor
    d_hidden: Tensor | None
    d_weight: Tensor | None
    dtype: torch.dtype

    def times(self, factor: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Both gradients, in the precision of the inputs."""
        return tuple(None if d is None else d.mul_(factor).to(self.dtype) for d in (self.d_hidden, self.d_weight))


@dataclass
class _Kept:
    """All logits, to become their own gradient."""

    logits: Tensor
    scaled: bool
    """By 1 / temperature: fp32 logits are scaled in place, others in a copy."""


class _Forward:
    """One forward pass over chunks of tokens."""

    def __init__(self, hidden, weight, labels, scale, plan: _Plan, *, needs: tuple[bool, bool]) -> None:
        self.hidden, self.weight, self.labels, self.scale, self.plan = hidden, weight, labels, scale, plan
        tokens, self.dtype = labels.shape[0], wide_dtype(weight.dtype)
        self.log_probs = hidden.new_empty(tokens, dtype=self.dtype)
        self.lse = torch.empty_like(self.log_probs)
        self.entropy = torch.empty_like(self.log_probs) if plan.with_entropy else None
        self.top_k_entropy = torch.empty_like(self.log_probs) if plan.top_k else None
        self.chunks = even_slices(tokens, plan.chunk_bytes // (weight.shape[0] * _bytes_per_logit(weight)))
        self.kept: _Kept | None = None
        self.expected = self.d_hidden = self.d_weight = None
        if plan.token_loss is not None and self._accumulator_is_worth_it(needs[1]):
            self.expected = torch.empty_like(self.log_probs)
            self.d_hidden = torch.empty_like(hidden) if needs[0] else None
            self.d_weight = self._new_accumulator() if needs[1] else None

    def _accumulator_is_worth_it(self, needs_d_weight: bool) -> bool:
        """Whether dL/dW can be summed over chunks without much more memory than it takes anyway.

        In fp32 the sum is the gradient. In half precision it needs a sum in fp32 beside it; that may be half as large
        as the logits that are not held, or as a chunk of them. Otherwise the logits are better computed twice.
        """
        if not needs_d_weight or self.weight.dtype == self.dtype or len(self.chunks) <= 1:
            return True
        logits_bytes = self.labels.shape[0] * self.weight.shape[0] * self.weight.element_size()
        return 4 * self.weight.numel() <= max(logits_bytes // 2, self.plan.chunk_bytes)

    def _new_accumulator(self) -> Tensor:
        if len(self.chunks) <= 1:
            return torch.empty_like(self.weight) if self.chunks else torch.zeros_like(self.weight)
        return torch.empty_like(self.weight, dtype=self.dtype)

    def ready(self) -> _Ready | None:
        if self.expected is None:
            return None
        return _Ready(self.expected, self.d_hidden, self.d_weight, self.weight.dtype)

    def run(self) -> None:
        if not self.chunks:
            return
        vocabulary = self.weight.shape[0]
        buffer = self.hidden.new_empty(self.chunks[0].stop, vocabulary)
        rows_at_a_time = _rows_in_cache(buffer)
        work = _Work(buffer, rows_at_a_time, self.dtype)
        for chunk in self.chunks:
            logits = buffer[: chunk.stop - chunk.start]
            torch.mm(self.hidden[chunk], self.weight.t(), out=logits)
            for rows in _slices(logits.shape[0], rows_at_a_time):
                self._take_rows(logits[rows], slice(chunk.start + rows.start, chunk.start + rows.stop), work)
            if self.expected is not None:
                self._add_gradients(logits, chunk)
        if self.plan.learns and self.expected is None and len(self.chunks) == 1:
            self.kept = _Kept(buffer, scaled=work.wide is None)

    def _take_rows(self, block: Tensor, tokens: slice, work: _Work) -> None:
        """Log-probs of some rows of logits; replaces them by dL/dlogits where the objective is known."""
        values = work.widened(block)
        scale = None if self.scale is None else self.scale[tokens].unsqueeze(1)
        if scale is not None:
            values.mul_(scale)
        labels = self.labels[tokens].unsqueeze(1)
        at_label = values.gather(1, labels)  # (rows, 1), like all below
        top = values.amax(1, keepdim=True)
        probs = torch.softmax(values, 1, out=work.probs[: values.shape[0]])
        lse = top - probs.amax(1, keepdim=True).log_()  # the largest probability is exp(top - lse)
        log_probs = at_label - lse
        self.lse[tokens], self.log_probs[tokens] = lse.squeeze(1), log_probs.squeeze(1)
        if self.entropy is not None:
            self.entropy[tokens] = lse.squeeze(1) - torch.linalg.vecdot(probs, values)
        if self.top_k_entropy is not None:
            self.top_k_entropy[tokens] = top_k_entropy(values, self.plan.top_k)
        if self.expected is None:
            return
        known = () if self.top_k_entropy is None else (self.top_k_entropy[tokens].unsqueeze(1),)
        expected = _gradient_of(self.plan.token_loss, log_probs, *known)
        self.expected[tokens] = expected.squeeze(1)
        if scale is not None:
            expected = expected * scale
        torch.mul(probs, -expected, out=block)
        block.scatter_(1, labels, (-expected * log_probs.expm1()).to(block.dtype))

    def _add_gradients(self, d_logits: Tensor, chunk: slice) -> None:
        hidden, weight = self.hidden[chunk], self.weight
        if self.d_hidden is not None:
            torch.mm(d_logits, weight, out=self.d_hidden[chunk])
        if self.d_weight is None:
            return
        if chunk.start == 0 and self.d_weight.dtype == weight.dtype:
            torch.mm(d_logits.t(), hidden, out=self.d_weight)
        elif self.d_weight.dtype == weight.dtype:
            self.d_weight.addmm_(d_logits.t(), hidden)
        else:
            for words in _slices(weight.shape[0], _ACCUMULATED_ROWS):
                part = d_logits[:, words].t() @ hidden
                if chunk.start == 0:
                    self.d_weight[words] = part
                else:
                    self.d_weight[words] += part


def _gradients(
    hidden, weight, labels, scale, lse, entropy, d_log_probs, d_entropy, *, needs, chunk_bytes, kept: _Kept | None
) -> tuple[Tensor | None, Tensor | None]:
    """dL/dhidden and dL/dweight for any dL/dlog p and dL/dentropy, over blocks of the vocabulary.

    An entropy E adds -p_v (log p_v + E) dL/dE to dL/dl_v.
    """
    tokens, dtype = labels.shape[0], lse.dtype
    d_hidden = torch.zeros_like(hidden, dtype=dtype) if needs[0] else None
    d_weight = torch.empty_like(weight) if needs[1] else None
    d_log_probs = torch.zeros_like(lse) if d_log_probs is None else d_log_probs.to(dtype)
    column = [x if x is None else x.unsqueeze(1) for x in (scale, lse, entropy, d_log_probs, d_entropy)]
    scale, lse, entropy, d_log_probs, d_entropy = column
    if kept is None:
        blocks = even_slices(weight.shape[0], chunk_bytes // (max(tokens, 1) * _bytes_per_logit(weight)))
        buffer = hidden.new_empty(tokens * blocks[0].stop)
    else:
        blocks, buffer = [slice(0, weight.shape[0])], kept.logits.view(-1)
    for words in blocks:
        size = words.stop - words.start
        logits = buffer[: tokens * size].view(tokens, size)
        if kept is None:
            torch.mm(hidden, weight[words].t(), out=logits)
        rows_at_a_time = _rows_in_cache(logits)
        work = _Work(logits, rows_at_a_time, dtype)
        for rows in _slices(tokens, rows_at_a_time):
            values = work.widened(logits[rows])
            if scale is not None and not (kept is not None and kept.scaled):
                values.mul_(scale[rows])
            log_probs = values.sub_(lse[rows])
            probs = torch.exp(log_probs, out=work.probs[: log_probs.shape[0]])
            if d_entropy is None:
                d_logits = probs.mul_(-d_log_probs[rows])
            else:
                log_probs.add_(entropy[rows]).mul_(-d_entropy[rows])
                d_logits = probs.mul_(log_probs.sub_(d_log_probs[rows]))
            own = labels[rows].unsqueeze(1) - words.start
            is_here = (own >= 0) & (own < size)
            d_logits.scatter_add_(1, own.clamp(0, size - 1), torch.where(is_here, d_log_probs[rows], 0.0))
            logits[rows] = d_logits if scale is None else d_logits.mul_(scale[rows])
        if d_hidden is not None:
            d_hidden += logits @ weight[words]
        if d_weight is not None:
            torch.mm(logits.t(), hidden, out=d_weight[words])
    return None if d_hidden is None else d_hidden.to(hidden.dtype), d_weight


class _Work:
    """Room for some rows of logits in fp32 and for their probabilities; where they are fp32 they stay in place."""

    def __init__(self, logits: Tensor, rows: int, dtype: torch.dtype) -> None:
        shape = (min(rows, logits.shape[0]), logits.shape[1])
        self.wide = None if logits.dtype == dtype else logits.new_empty(shape, dtype=dtype)
        self.probs = logits.new_empty(shape, dtype=dtype)

    def widened(self, block: Tensor) -> Tensor:
        return block if self.wide is None else self.wide[: block.shape[0]].copy_(block)


def _factor_between(expected: Tensor, found: Tensor) -> Tensor | None:
    """c with found = c * expected up to rounding, or None."""
    if expected.numel() == 0:
        return expected.new_zeros(())
    index = expected.abs().argmax()
    factor = torch.where(expected[index] == 0, 0.0, found[index] / expected[index])
    wanted = factor * expected
    return factor if bool(((found - wanted).abs() <= PROPORTIONAL * wanted.abs()).all()) else None


def _gradient_of(token_loss: Callable[..., Tensor], log_probs: Tensor, *known: Tensor) -> Tensor:
    with torch.enable_grad():
        log_probs = log_probs.detach().requires_grad_()
        return torch.autograd.grad(token_loss(log_probs, *known).sum(), log_probs)[0]


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _bytes_per_logit(weight: Tensor) -> int:
    """A processor keeps only rows in fp32; a GPU the whole chunk and its softmax."""
    own = weight.element_size()
    if weight.device.type == "cpu":
        return own
    wide = wide_dtype(weight.dtype).itemsize
    return own + wide if weight.dtype == wide_dtype(weight.dtype) else own + 2 * wide


def _rows_in_cache(logits: Tensor) -> int:
    """Rows whose softmax is taken at a time."""
    if logits.device.type != "cpu":
        return max(logits.shape[0], 1)
    return max(_CACHED_ELEMENTS * torch.get_num_threads() // logits.shape[1], 1)


def even_slices(count: int, most: int) -> list[slice]:
    """As few slices as have at most `most` entries (at least 1), of sizes as equal as can be, the largest first."""
    pieces = -(-count // max(most, 1))
    return list(_slices(count, -(-count // pieces))) if pieces else []


def _slices(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
