"""The chunked loss head inside a transformers model: `lm_head` returns log-probabilities when it is asked to.

A model's forward ends with `logits = self.lm_head(hidden_states)`. `HeadInModel` hangs two of torch's forward hooks on
that module: the first keeps the hidden states and lets the module itself run on no token at all, the second returns
log-probabilities of the kept states in place of the logits. So the head runs where FSDP expects the module to run: its
weight is gathered, whether it is in a unit of its own (untied) or in the root's (tied), and gradients are reduced as
they would be. No class, no parameter and no name in a checkpoint changes, and who asks for nothing gets logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from peft.tuners.lora import Linear as LoRALinear
from torch import Tensor, nn

from verl_ext.engine.divergence import ReferenceHead, head_divergence
from verl_ext.engine.loss_head import head_outputs
from verl_ext.objectives.objective import Divergence

CHANGES_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier", "lm_head_multiplier")
"""Keys of model configurations under which logits are changed after the head (transformers 5.10)."""


@dataclass(frozen=True, kw_only=True)
class HeadRequest:
    """What is asked of the head for one forward pass.

    Args:
        labels: next token of each position, (rows, tokens), laid out like the input.
        wanted: positions whose log-probability is needed, bool, the same shape; None for all. Others get 0.
        temperature: of each position, the same shape, or one for all.
        with_entropy, top_k: see `head_outputs`.
        token_loss: see `head_outputs`; of the wanted positions.
        divergence: see `head_divergence`, together with the reference.
        reference: what `HeadInModel.reference` held after the reference's pass over the same positions.
        for_reference: keep what the head was given, in `HeadInModel.reference`; with its weight, unless that is the
            policy's own and does not learn.
    """

    labels: Tensor
    wanted: Tensor | None = None
    temperature: Tensor | float = 1.0
    with_entropy: bool = False
    top_k: int = 0
    token_loss: Callable[..., Tensor] | None = None
    divergence: Divergence | None = None
    reference: ReferenceHead | None = None
    for_reference: bool = False


@dataclass(frozen=True)
class HeadAnswer:
    """What came back, (rows, tokens) each; None where it was not asked for."""

    log_probs: Tensor
    entropy: Tensor | None = None
    top_k_entropy: Tensor | None = None
    divergence: Tensor | None = None


class HeadInModel:
    """Attach to the output layer of a model before it is wrapped by FSDP.

    Args:
        head: the module that maps hidden states to logits, such that `why_not_chunked` has nothing against it.
    """

    def __init__(self, head: nn.Module) -> None:
        self._request: HeadRequest | None = None
        self._hidden_states: Tensor | None = None
        self._returned: Tensor | None = None
        self._fields: tuple[str, ...] = ()
        self.reference: ReferenceHead | None = None
        # FSDP2 puts its own hook before this one, and its other hook after ours, because it comes later.
        head.register_forward_pre_hook(self._before)
        head.register_forward_hook(self._after)

    def ask(self, request: HeadRequest) -> None:
        """Make the next forward pass of the model return log-probabilities."""
        self._request = request
        self._returned = None

    def answer(self, logits: Tensor) -> HeadAnswer:
        """What was asked for, of the model's output.

        Args:
            logits: the field of that name.

        Raises:
            RuntimeError: the model did something else to its logits after the head, or never called it.
        """
        returned, self._returned, self._request = self._returned, None, None
        if returned is None or logits is not returned:
            raise RuntimeError(
                "this model does not return what its output layer does, so that the chunked loss head would be wrong; "
                "set model.fused_kernel_options.loss_head=plain"
            )
        return HeadAnswer(**dict(zip(self._fields, returned.unbind(), strict=True)))

    def _before(self, _module: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor] | None:
        if self._request is None:
            return None
        (self._hidden_states,) = arguments
        return (self._hidden_states[:, :0],)

    def _after(self, module: nn.Module, _arguments: tuple[Tensor], _logits: Tensor) -> Tensor | None:
        if self._request is None:
            return None
        hidden_states, self._hidden_states = self._hidden_states, None
        answers, reference = _answer(module, hidden_states, self._request)
        if self._request.for_reference:
            self.reference = reference
        self._fields = tuple(answers)
        self._returned = torch.stack(list(answers.values()))  # one tensor, whose gradient FSDP waits for
        return self._returned


def why_not_chunked(head: nn.Module | None, config: object, *, strategy: str) -> str | None:
    """What keeps a model from the chunked head, as a phrase; None if nothing does.

    Args:
        head: its output layer.
        config: of the model.
        strategy: "fsdp" or "fsdp2".
    """
    changing = [key for key in CHANGES_LOGITS if getattr(config, key, None) not in (None, 1, 1.0)]
    if changing:
        return f"the model changes its logits ({changing[0]})"
    if isinstance(head, LoRALinear):
        if strategy == "fsdp":
            return "FSDP1 wraps the matrices of an adapter on the head one by one"
        if any(head.use_dora.values()):
            return "the adapter on the head is DoRA"
        head = head.base_layer
    if type(head) is not nn.Linear:
        return f"the head is a {type(head).__name__}"
    return "the head has a bias" if head.bias is not None else None


def _answer(
    module: nn.Module, hidden_states: Tensor, request: HeadRequest
) -> tuple[dict[str, Tensor], ReferenceHead | None]:
    """Fields of `HeadAnswer`, (rows, tokens) each, and what a later pass needs of this one."""
    shape = request.labels.shape
    hidden_states, labels = hidden_states.flatten(0, 1), request.labels.flatten()
    temperature = request.temperature
    temperature = temperature.expand(shape).flatten() if isinstance(temperature, Tensor) else temperature
    wanted = None if request.wanted is None else request.wanted.flatten().nonzero().squeeze(1)
    if wanted is not None:
        hidden_states, labels = hidden_states[wanted], labels[wanted]
        temperature = temperature[wanted] if isinstance(temperature, Tensor) else temperature
    hidden_states, weight = _linear_map(module, hidden_states)
    is_policys = weight is _base_weight(module) and not weight.requires_grad
    hidden_states, weight = _in_autocast(hidden_states, weight)
    reference = None
    if request.for_reference:
        # A sharded weight is whole for as long as its module runs.
        reference = ReferenceHead(hidden_states.detach(), None if is_policys else weight.detach().clone())
    with_divergence = request.divergence is not None
    answers: dict[str, Tensor | None] = {}
    if with_divergence:
        of_reference = request.reference
        if of_reference.weight is None:
            own = _in_autocast(of_reference.hidden_states, _base_weight(module))[1]
            of_reference = ReferenceHead(of_reference.hidden_states, own)
        answers["log_probs"], answers["divergence"] = head_divergence(
            *(hidden_states, weight, labels, of_reference, request.divergence), temperature=temperature
        )
    if not with_divergence or request.with_entropy or request.top_k:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not with_divergence):
            outputs = head_outputs(
                *(hidden_states, weight, labels),
                temperature=temperature,
                with_entropy=request.with_entropy,
                top_k=request.top_k,
                token_loss=request.token_loss,
            )
        answers = vars(outputs) | answers

    def laid_out(values: Tensor) -> Tensor:
        if wanted is None:
            return values.view(shape)
        return values.new_zeros(shape).masked_scatter(request.wanted, values)

    return {name: laid_out(values) for name, values in answers.items() if values is not None}, reference


def _in_autocast(hidden_states: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """In the precision in which the module's own forward would compute."""
    if torch.is_autocast_enabled(hidden_states.device.type):
        dtype = torch.get_autocast_dtype(hidden_states.device.type)
        return hidden_states.to(dtype), weight.to(dtype)
    return hidden_states, weight


def _base_weight(module: nn.Module) -> Tensor:
    return module.weight if isinstance(module, nn.Linear) else module.base_layer.weight


def _linear_map(module: nn.Module, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
    """Input and weight of the one linear map that the head is.

    With adapters, h W' + s (h A') B' is [h, s h A'] [W, B]'. Their sum W + s B A would lose in bf16 what the adapter
    has learned, as long as it is small.
    """
    if isinstance(module, nn.Linear):
        return hidden_states, module.weight
    inputs, weights = [hidden_states], [module.base_layer.weight]
    if not (module.disable_adapters or module.merged):
        for name in module.active_adapters:
            if name in module.lora_A:
                lowered = module.lora_A[name](module.lora_dropout[name](hidden_states))
                inputs.append(lowered * module.scaling[name])
                weights.append(module.lora_B[name].weight)
    if len(inputs) == 1:
        return hidden_states, weights[0]
    dtype = torch.promote_types(inputs[0].dtype, inputs[1].dtype)
    return torch.cat([x.to(dtype) for x in inputs], 1), torch.cat([w.to(dtype) for w in weights], 1)
