"""Estimates of memory on one GPU, as sums of named parts whose formulas are shown.

They count what must be there: what verl's FSDP engine shards and gathers, what autograd keeps of a layer of the Llama
family in transformers 5.10 and of the head in `verl_ext.engine.fsdp`. `benchmarks/memory_estimate.py` compares them
with measurements. What they leave out (the allocator's holes, the CUDA context, NCCL) is the part "reserve" on a GPU.

Symbols: P parameters, N ranks that share them, T tokens of a micro-batch on one GPU, H hidden size, I intermediate
size, Q and K widths of queries and of keys, L layers, V vocabulary, c bytes of a number in forward and backward, m
bytes of a stored parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from verl_ext.doctor.model_shape import ModelShape
from verl_ext.doctor.plan import RolloutPlan, TrainingPlan

GIB = 2**30

GPU_RESERVE = 1.5 * GIB
"""CUDA context, NCCL buffers and cuBLAS workspaces. An assumption, not measured here."""
GPU_HOLES = 0.05
"""Share that the caching allocator loses to fragmentation. An assumption, not measured here."""
CHUNK_BYTES = 320 * 2**20  # verl_ext.engine.loss_head.CHUNK_BYTES, which importing verl would bring
FUSED_CHUNK = 512
"""Tokens that the torch fused head runs at a time (verl/utils/experimental/torch_functional.py, verl 0.9.1)."""
ROLLOUT_WORKSPACE = 2 * GIB
"""Activations and CUDA graphs of a generation engine. An assumption, not measured here."""


@dataclass(frozen=True)
class Part:
    """A piece of memory, and how it was computed."""

    name: str
    bytes: float
    formula: str


@dataclass(frozen=True)
class MemoryEstimate:
    """Parts of one moment, which together are the peak."""

    moment: str
    parts: tuple[Part, ...]

    @property
    def bytes(self) -> float:
        return sum(part.bytes for part in self.parts)


def training_memory(shape: ModelShape, plan: TrainingPlan) -> MemoryEstimate:
    """Most memory of a training step on one GPU.

    The peak is at one of three moments: in the head's backward, when the activations of all layers are kept; in the
    last layer's backward, when the gradients are complete; in the optimizer's step.
    """
    reserve = (_reserve,) if plan.on_gpu else ()
    moments = [_in_the_head(shape, plan), _in_the_layers(shape, plan), _in_the_optimizer(shape, plan)]
    moments = [MemoryEstimate(m.moment, (*m.parts, *(part(m) for part in reserve))) for m in moments]
    return max(moments, key=lambda moment: moment.bytes)


def layer_activations(shape: ModelShape, plan: TrainingPlan, tokens: int | None = None) -> Part:
    """What autograd keeps of one layer.

    A norm keeps its fp32 input, the normalised numbers and the output that the projections keep too (Liger: input and
    output); the attention keeps queries, keys, values and output; the MLP keeps gate, up, silu(gate) and their product
    (Liger computes silu(gate) again).
    """
    tokens = plan.micro_tokens if tokens is None else tokens
    c, hidden, inner = plan.compute_bytes, shape.hidden, shape.intermediate
    query, kv = shape.query_width, shape.kv_width
    norm = 2 * c if plan.liger else 4 + 2 * c
    # Without a GPU, key and value heads are repeated, and the output is copied into the layout of the projection.
    attention = 2 * query + 2 * kv if plan.on_gpu else 5 * query
    mlp = 3 if plan.liger else 4
    head_norms = (4 + c) * (query + kv) if shape.head_norms else 0
    size = tokens * (2 * norm * hidden + c * attention + c * mlp * inner + head_norms)
    pieces = f"2*{norm}*H + {c}*{'(2Q + 2K)' if plan.on_gpu else '5Q'} + {c * mlp}*I"
    if head_norms:
        pieces += f" + {4 + c}*(Q + K)"
    numbers = f"T={tokens}, H={hidden}, I={inner}, Q={query}, K={kv}"
    return Part("one layer's activations", size, f"T*({pieces}); {numbers}")


def kept_activations(shape: ModelShape, plan: TrainingPlan) -> Part:
    """Activations of all layers that wait for their backward."""
    if plan.checkpointing:
        size = shape.layers * plan.micro_tokens * shape.hidden * plan.compute_bytes
        numbers = f"{shape.layers}*{plan.micro_tokens}*{shape.hidden}*{plan.compute_bytes}"
        return Part("activations, checkpointed", size, f"L*T*H*c = {numbers}")
    layer = layer_activations(shape, plan)
    return Part("activations", shape.layers * layer.bytes, f"L*T*(...) = {shape.layers} * {layer.formula}")


def head_memory(shape: ModelShape, plan: TrainingPlan) -> Part:
    """Logits and gradients in the head's backward.

    The plain head has log-probabilities and two gradients in fp32, for every token. The chunked head has a chunk of
    logits with what is as large, and the gradients of its weight (with their sum in fp32, where the objective is known
    beforehand) and of the hidden states. verl's fused head has some five fp32 copies of a chunk's logits, and the
    gradient of its weight twice: summed up, and of the chunk.
    """
    tokens, vocab, c, hidden = plan.micro_tokens, shape.vocab, plan.compute_bytes, shape.hidden
    if plan.head == "plain":
        return Part("logits", 12 * tokens * vocab, f"12*T*V = 12*{tokens}*{vocab}")
    if plan.head == "fused":
        chunk = min(FUSED_CHUNK, tokens)
        size = (20 + c) * chunk * vocab + 2 * c * shape.embedding + 2 * c * tokens * hidden
        return Part("fused head", size, f"{20 + c}*{chunk}*V + 2*c*V*H + 2*c*T*H; V={vocab}")
    wide = c + (4 if c == 4 else 8) if plan.on_gpu else c
    chunk_bytes = min(CHUNK_BYTES, wide * tokens * vocab)
    learned = plan.lora_rank <= 0
    weight = (c if c == 4 else 4 + c) if learned else 0
    size = chunk_bytes + weight * shape.embedding + (4 + c) * tokens * hidden
    formula = f"min({CHUNK_BYTES / 2**20:g} MiB, {wide}*T*V) + {weight}*V*H + {4 + c}*T*H; T={tokens}, V={vocab}"
    return Part("chunked head", size, formula)


def _trained(shape: ModelShape, plan: TrainingPlan) -> int:
    return shape.lora_parameters(plan.lora_rank) if plan.lora_rank > 0 else shape.parameters


def _states(shape: ModelShape, plan: TrainingPlan, *, gradients: bool) -> list[Part]:
    """What is sharded over the ranks: parameters, gradients, the two moments of Adam."""
    m, ranks = plan.model_bytes, plan.shard_ranks
    if plan.offload_policy and plan.on_gpu:
        return [Part("parameters, gradients, optimizer", 0, "0: engine.offload_policy keeps them in host memory")]
    base = shape.parameters + (_trained(shape, plan) if plan.lora_rank > 0 else 0)
    trained = _trained(shape, plan)
    what = "P" if plan.lora_rank <= 0 else "P_lora"
    parts = [Part("parameters", m * base / ranks, f"m*P/N = {m}*{base:.4g}/{ranks}")]
    if gradients:
        parts.append(Part("gradients", m * trained / ranks, f"m*{what}/N = {m}*{trained:.4g}/{ranks}"))
    parts.append(Part("optimizer", 2 * m * trained / ranks, f"2*m*{what}/N = 2*{m}*{trained:.4g}/{ranks}"))
    return parts


def _gathered(shape: ModelShape, plan: TrainingPlan) -> Part:
    """Parameters that are whole on this GPU, in the precision of the computation.

    Embedding, head and last norm stay whole from forward to backward where they are one unit (tied or fused); else
    they are gathered in turn. One layer runs, and on a GPU the next one is on its way.
    """
    c = plan.compute_bytes
    if not plan.reshard:
        return Part("gathered parameters", c * shape.parameters, f"c*P = {c}*{shape.parameters:.4g}")
    root = shape.embedding if shape.tied else (2 if plan.head == "fused" else 1) * shape.embedding
    layers = 2 if plan.on_gpu else 1
    size = c * (root + layers * shape.layer_parameters)
    return Part(
        "gathered parameters",
        size,
        f"c*(embeddings + {layers} layers) = {c}*({root:.4g} + {layers}*{shape.layer_parameters:.4g})",
    )


def _in_the_head(shape: ModelShape, plan: TrainingPlan) -> MemoryEstimate:
    parts = [
        *_states(shape, plan, gradients=plan.micro_batches > 1),
        _gathered(shape, plan),
        kept_activations(shape, plan),
        head_memory(shape, plan),
    ]
    return MemoryEstimate("in the head's backward", tuple(parts))


def _in_the_layers(shape: ModelShape, plan: TrainingPlan) -> MemoryEstimate:
    """The first layer to go backward, with the gradients of the whole model as if they were there already."""
    c = plan.compute_bytes
    layer = layer_activations(shape, plan)
    gradient = (0 if plan.lora_rank > 0 else 1) * (c + 4) * shape.layer_parameters
    parts = [
        *_states(shape, plan, gradients=plan.micro_batches > 1),
        _gathered(shape, plan),
        kept_activations(shape, plan),
        Part("layer in backward", (1.5 if plan.checkpointing else 0.5) * layer.bytes, _backward_formula(plan, layer)),
        Part("its gradients", gradient, f"(c + 4)*{shape.layer_parameters:.4g}"),
    ]
    return MemoryEstimate("in the layers' backward", tuple(parts))


def _backward_formula(plan: TrainingPlan, layer: Part) -> str:
    what = "recomputed, and half as much for gradients" if plan.checkpointing else "half of it for gradients"
    return f"{what}: {1.5 if plan.checkpointing else 0.5}*{layer.formula}"


def _in_the_optimizer(shape: ModelShape, plan: TrainingPlan) -> MemoryEstimate:
    """torch's AdamW on a GPU takes the root of all second moments at once; elsewhere of one parameter at a time."""
    states = _states(shape, plan, gradients=True)
    trained, m, ranks = _trained(shape, plan), plan.model_bytes, plan.shard_ranks
    if plan.offload_policy and plan.on_gpu:
        return MemoryEstimate("in the optimizer's step", tuple(states))
    if plan.on_gpu:
        temporary = Part("optimizer's temporaries", m * trained / ranks, f"m*P/N = {m}*{trained:.4g}/{ranks}")
    else:
        temporary = Part("optimizer's temporaries", 2 * m * shape.embedding / ranks, "2*m*V*H/N, the largest parameter")
    return MemoryEstimate("in the optimizer's step", (*states, temporary))


def _reserve(moment: MemoryEstimate) -> Part:
    return Part(
        "reserve",
        GPU_RESERVE + GPU_HOLES * moment.bytes,
        f"{GPU_RESERVE / GIB:g} GiB (CUDA, NCCL) + {GPU_HOLES:.0%} (allocator); assumed, not measured",
    )


def kv_bytes_per_token(shape: ModelShape, plan: RolloutPlan) -> float:
    """Keys and values of one token on one GPU; with more GPUs than key/value heads these are repeated."""
    heads_here = max(1.0, shape.kv_heads / plan.tp_size)
    return 2 * shape.layers * heads_here * shape.head_dim * plan.weight_bytes


def rollout_memory(
    shape: ModelShape, training: TrainingPlan, plan: RolloutPlan, device_bytes: float
) -> tuple[MemoryEstimate, Part]:
    """What is on one GPU while it generates, and what is left of the engine's share for keys and values.

    Returns:
        The parts, and the room for keys and values; its bytes are negative when not even the weights fit.
    """
    share = plan.gpu_memory_utilization * device_bytes
    weights = plan.weight_bytes * shape.parameters / plan.tp_size
    room = share - weights - ROLLOUT_WORKSPACE
    utilization, total = plan.gpu_memory_utilization, device_bytes / GIB
    parts = list(_left_by_training(shape, training, plan)) if plan.colocated else []
    parts += [
        Part(
            "rollout weights",
            weights,
            f"{plan.weight_bytes}*P/TP = {plan.weight_bytes}*{shape.parameters:.4g}/{plan.tp_size}",
        ),
        Part("rollout workspace", ROLLOUT_WORKSPACE, "2 GiB for activations and CUDA graphs; assumed, not measured"),
        Part("keys and values", max(room, 0.0), f"{utilization:g}*{total:.3g} GiB - weights - workspace"),
    ]
    per_token = kv_bytes_per_token(shape, plan)
    formula = f"2*L*K/TP*{plan.weight_bytes} = {per_token:.0f} bytes a token"
    return MemoryEstimate("while generating", tuple(parts)), Part("room for keys and values", room, formula)


def _left_by_training(shape: ModelShape, training: TrainingPlan, plan: RolloutPlan) -> Sequence[Part]:
    m, ranks = training.model_bytes, training.shard_ranks
    trained = _trained(shape, training)
    if not plan.trainer_leaves:
        yield Part("training parameters", m * shape.parameters / ranks, f"m*P/N = {m}*{shape.parameters:.4g}/{ranks}")
    if not plan.optimizer_leaves:
        yield Part("optimizer", 2 * m * trained / ranks, f"2*m*P/N = 2*{m}*{trained:.4g}/{ranks}")
    yield Part("reserve", GPU_RESERVE, f"{GPU_RESERVE / GIB:g} GiB (CUDA, NCCL); assumed, not measured")
