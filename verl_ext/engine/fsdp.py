"""verl's FSDP engine with a loss head of our own, registered under the vendor name `verl_ext`.

verl picks an engine by (device, vendor) and lets `VERL_ENGINE_VENDOR` override the vendor. Our trainers set it to
`verl_ext`; every other verl run on the same machine keeps verl's own engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id, get_device_name
from verl.utils.ulysses import ulysses_pad_and_slice_inputs
from verl.workers.config import HFModelConfig
from verl.workers.engine.fsdp import transformer_impl
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from verl_ext.engine.attention import ATTENTION_NAME
from verl_ext.engine.checkpoint_loading import only_known_types
from verl_ext.engine.loss_head import CHUNK_BYTES, top_k_entropy
from verl_ext.engine.model_head import HeadInModel, HeadRequest, why_not_chunked
from verl_ext.engine.shared_prompts import (
    TOKENS_COMPUTED,
    TOKENS_OF_ROWS,
    layout_of,
    shared_micro_batches,
    why_not_in_batch,
    why_not_shared,
)
from verl_ext.errors import ConfigError
from verl_ext.objectives.objective import Needs, Objective

LOSS_HEADS = ("chunked", "plain")

NUM_COUNTED = "num_counted"
"""Metric of the objective's loss function: over how many tokens of a micro-batch it wants its mean."""


def token_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """log softmax(logits)[labels] in fp32 or wider, whatever the precision of the logits.

    Args:
        logits: (..., vocab_size), any float dtype.
        labels: (...), token ids.

    Returns:
        (...), fp32 (fp64 for fp64 logits).
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
    return -losses.view(labels.shape)


def _flag(micro_batch: TensorDict, key: str) -> bool:
    return bool(tu.get_non_tensor_data(data=micro_batch, key=key, default=False))


def _needs_logits(micro_batch: TensorDict) -> bool:
    """Whether something is asked for that takes whole rows of logits outside the head."""
    return any(
        _flag(micro_batch, key) for key in ("calculate_sum_pi_squared", "distillation_use_topk", "distillation_only")
    )


def use_our_attention(model_config: HFModelConfig) -> None:
    """Replace verl's default, flash-attn alone, unless the user named an attention.

    Set here and not as `override_config.attn_implementation`: that one ends up in the config.json of every
    checkpoint, and then nobody without this package can load it.
    """
    if "attn_implementation" not in model_config.override_config:
        model_config.hf_config._attn_implementation = ATTENTION_NAME


@contextmanager
def _micro_batches_of(splitter: Callable) -> Iterator[None]:
    """Let verl's engine take its micro-batches from `splitter`.

    `FSDPEngine.forward_backward_batch` calls a function of its own module (workers/engine/fsdp/transformer_impl.py:737,
    verl 0.9.1), and the engine has no method to override there.
    """
    verls = transformer_impl.prepare_micro_batches

    def prepare_micro_batches(data: TensorDict, dp_group, same_micro_num_in_dp: bool):
        return splitter(data, dp_group, verls)

    transformer_impl.prepare_micro_batches = prepare_micro_batches
    try:
        yield
    finally:
        transformer_impl.prepare_micro_batches = verls


class _LogProbsOutput:
    """What verl reads of a model whose head already returned log-probabilities."""

    def __init__(self, log_probs: Tensor, entropy: Tensor | None = None) -> None:
        self.log_probs = log_probs
        self.entropy = entropy


class ExactLogProbs:
    """Mixin over `FSDPEngineWithLMHead`: our attention and loss head, fp32 log-probs, a fused head FSDP2 can run.

    `model.fused_kernel_options.loss_head` is "chunked" (the default, `verl_ext.engine.loss_head`) or "plain", which
    holds all logits; `model.use_fused_kernels=True` takes verl's own fused head instead. Beside verl's settings a batch
    may have

        only_learned    bool: log-probs are needed where `loss_mask` has the next token; elsewhere they may be 0

    With an `objective`, losses get what it asks for of the model: `top_k_entropy` and `divergence` in the model's output
    and `reference_log_probs` in the micro-batch, each jagged and laid out like the log-probs.
    With `share_prompts` a prompt goes through the model once for all of its answers in a micro-batch
    (`verl_ext.engine.shared_prompts`); losses get rows and log-probs as without.
    """

    loss_head = ""
    """Which head this engine has and why, for the log."""

    objective: Objective | None = None
    """Of the trainer. Where it is one over single tokens, and `weighted` is false, the chunked head computes its
    gradient while the chunk is there, which saves a matrix product."""

    weighted = False
    """Whether token losses are multiplied by numbers of the data."""

    mean_over_counted = False
    """Whether the mean is over the tokens that the objective counts, of which the loss function tells the number."""

    reference: FSDPEngineWithLMHead | None = None
    """The engine of a frozen reference model, for an objective that needs one; None for this one with its adapter off."""

    is_reference = False
    """Whether what now runs is the reference model."""

    _reference_logits: Tensor | None = None

    share_prompts = False

    def why_not_shared(self) -> str | None:
        """What keeps this model from sharing prompts, as a phrase; None if nothing does."""
        config = self.model_config.hf_config
        return why_not_shared(config, attention=config._attn_implementation)

    def forward_backward_batch(self, data: TensorDict, loss_function, forward_only=False):
        """See `FSDPEngineWithLMHead`."""
        shares = self.share_prompts and why_not_in_batch(data) is None
        with _micro_batches_of(shared_micro_batches) if shares else nullcontext():
            output = super().forward_backward_batch(data, loss_function, forward_only=forward_only)
        if loss_function is not None and self.mean_over_counted:
            self._take_mean_over_counted(output, data, forward_only=forward_only)
        return output

    def _take_mean_over_counted(self, output: dict, data: TensorDict, *, forward_only: bool) -> None:
        """From the mean over all learned tokens to that over those which the objective counts.

        How many these are is known only after the last micro-batch; a mean is the same sum, though, over another number.
        """
        counted = torch.tensor(sum(output["metrics"][NUM_COUNTED]), device=get_device_name())
        torch.distributed.all_reduce(counted, group=self.get_data_parallel_group())
        learned = tu.get_non_tensor_data(data=data, key="batch_num_tokens", default=None)
        if counted.item() == learned:
            return
        factor = learned / max(counted.item(), 1)
        output["loss"] = [factor * loss for loss in output["loss"]]
        if not forward_only:
            for parameter in self.module.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)

    def forward_step(self, micro_batch: TensorDict, loss_function, forward_only):
        """See `FSDPEngineWithLMHead`; counts the tokens of rows and those computed, where prompts are shared.

        A reference model that the objective asks for runs first, on the same micro-batch.
        """
        if loss_function is not None and self._needs.reference:
            micro_batch = micro_batch.to(get_device_id())
            self._run_reference(micro_batch)
        loss, output = super().forward_step(micro_batch, loss_function, forward_only)
        if self.share_prompts and loss_function is not None:
            tokens = micro_batch["input_ids"].values().numel()
            layout = layout_of(micro_batch)
            computed = tokens if layout is None else layout.kept.numel()
            output["metrics"] = {**output["metrics"], TOKENS_OF_ROWS: tokens, TOKENS_COMPUTED: computed}
        return loss, output

    @property
    def _needs(self) -> Needs:
        """Of the objective; none while the reference runs."""
        return Needs() if self.objective is None or self.is_reference else self.objective.needs

    def _run_reference(self, micro_batch: TensorDict) -> None:
        """Put the reference's log-probs into the micro-batch, and keep its hidden states for the head where needed."""
        engine = self if self.reference is None else self.reference
        engine.objective = self.objective
        engine.is_reference = True
        training = engine.module.training
        adapter_off = self.disable_adapter() if self.reference is None else nullcontext()
        try:
            engine.module.eval()
            with torch.no_grad(), adapter_off:
                _, output = engine.forward_step(micro_batch.copy(), None, True)  # its flags change on the way
        finally:
            engine.is_reference = False
            engine.module.train(training)
        micro_batch["reference_log_probs"] = output["model_output"]["log_probs"]
        if engine is not self:
            self._reference_logits, engine._reference_logits = engine._reference_logits, None
            if self._head is not None:
                self._head.reference, engine._head.reference = engine._head.reference, None

    def _build_module(self):
        use_our_attention(self.model_config)
        return super()._build_module()

    def prepare_model_inputs(self, micro_batch: TensorDict):
        """See `FSDPEngineWithLMHead`; also tells the chunked head what it is to compute."""
        layout = layout_of(micro_batch)
        laid_out = micro_batch if layout is None else layout.apply(micro_batch)
        model_inputs, output_args = super().prepare_model_inputs(laid_out)
        if self._head is not None:
            self._head.ask(self._head_request(laid_out, output_args, model_inputs["input_ids"].shape))
        return model_inputs, {**output_args, "laid_out": laid_out, "layout": layout}

    def prepare_model_outputs(self, output, output_args, micro_batch: TensorDict, logits_processor_func):
        """See `FSDPEngineWithLMHead`; log-probs are fp32 whatever the model's precision.

        verl computes them in the dtype of the logits, and `sft_loss` then sums thousands of bf16 numbers.
        """
        layout, laid_out = output_args["layout"], output_args["laid_out"]
        extras: dict[str, Tensor | None] = {}
        if self._head is not None and not _needs_logits(laid_out):
            answer = self._head.answer(output.logits)
            output = _LogProbsOutput(answer.log_probs, answer.entropy)
            extras = {"top_k_entropy": answer.top_k_entropy, "divergence": answer.divergence}
        elif self.objective is not None:
            extras = self._asked_of_logits(output.logits)
        outputs = self._token_outputs(output, output_args, laid_out, logits_processor_func)
        for name, values in extras.items():
            if values is not None:
                outputs[name] = self._as_rows(values, output_args, laid_out)
        return outputs if layout is None else layout.undo(outputs, micro_batch["input_ids"].offsets())

    def _token_outputs(self, output, output_args, micro_batch: TensorDict, logits_processor_func):
        """`prepare_model_outputs` of the tokens that went through the model, without what only an objective asks for."""
        if _flag(micro_batch, "use_fused_kernels"):
            return super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)
        if not isinstance(output, _LogProbsOutput):
            if output_args["temperature_is_one"] and not (
                _needs_logits(micro_batch) or _flag(micro_batch, "calculate_entropy")
            ):
                labels = self._laid_out(output_args["input_ids_rmpad_rolled"], micro_batch, output.logits.shape[:2])
                output = _LogProbsOutput(token_log_probs(output.logits, labels))
            else:
                output.logits = output.logits.float()
        if isinstance(output, _LogProbsOutput):
            tu.assign_non_tensor(micro_batch, use_fused_kernels=True)  # log-probs and entropy are there
        return super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)

    def _asked_of_logits(self, logits: Tensor) -> dict[str, Tensor]:
        """What the objective asks for, where all logits are at hand; (rows, tokens) each, at a temperature of 1."""
        if self.is_reference:
            self._reference_logits = logits if self.objective.needs.divergence is not None else None
            return {}
        needs, found = self.objective.needs, {}
        if needs.top_k_entropy or needs.divergence is not None:
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if needs.top_k_entropy:
            found["top_k_entropy"] = top_k_entropy(logits, min(needs.top_k_entropy, logits.shape[-1]))
        if needs.divergence is not None:
            reference, self._reference_logits = self._reference_logits.to(logits.dtype), None
            values = needs.divergence(logits.flatten(0, 1).log_softmax(-1), reference.flatten(0, 1).log_softmax(-1))
            found["divergence"] = values.view(logits.shape[:2])
        return found

    def _as_rows(self, values: Tensor, output_args: dict, micro_batch: TensorDict) -> Tensor:
        """Jagged (rows, tokens), as verl returns log-probs, of values that are laid out as the model sees the tokens."""
        offsets = micro_batch["input_ids"].offsets()
        if self._is_packed(micro_batch):
            values = self._gather_and_unpad_packed(values.squeeze(0), output_args["pad_size"])
        else:
            values = values[torch.arange(values.shape[1], device=values.device) < offsets.diff().unsqueeze(1)]
        return torch.nested.nested_tensor_from_jagged(values, offsets)

    def _head_request(self, micro_batch: TensorDict, output_args: dict, shape: torch.Size) -> HeadRequest | None:
        if _needs_logits(micro_batch):
            return None
        wanted, token_loss, needs = None, None, self._needs
        if _flag(micro_batch, "only_learned"):
            wanted = self._laid_out(self._learned(micro_batch, output_args), micro_batch, shape)
            if self.objective is not None and needs.of_single_tokens and not (self.is_reference or self.weighted):
                token_loss = self.objective.token_loss
        temperature = 1.0
        if not output_args["temperature_is_one"]:
            packed = output_args.get("temperature_rmpad")  # (tokens of this rank,), or (batch,) where rows are padded
            temperature = output_args["temperature"].unsqueeze(1) if packed is None else packed.unsqueeze(0)
        return HeadRequest(
            labels=self._laid_out(output_args["input_ids_rmpad_rolled"], micro_batch, shape),
            wanted=wanted,
            temperature=temperature,
            with_entropy=_flag(micro_batch, "calculate_entropy"),
            top_k=needs.top_k_entropy,
            token_loss=token_loss,
            divergence=needs.divergence,
            reference=None if needs.divergence is None else self._head.reference,
            for_reference=self.is_reference and self.objective.needs.divergence is not None,
        )

    def _learned(self, micro_batch: TensorDict, output_args: dict) -> Tensor:
        """Whether the next token of each position is learned, bool, as verl lays out those tokens themselves."""
        learned = torch.roll(micro_batch["loss_mask"].values(), shifts=-1).bool()
        if not self._is_packed(micro_batch):
            return learned
        learned = learned.unsqueeze(0)
        static_pad = self._get_packed_pad_size(learned.shape[1])
        learned = F.pad(learned, (0, static_pad))
        if self.use_ulysses_sp:
            learned, _, _ = ulysses_pad_and_slice_inputs(learned, None, sp_size=self.ulysses_sequence_parallel_size)
        return learned.squeeze(0)

    def _laid_out(self, values: Tensor, micro_batch: TensorDict, shape: torch.Size) -> Tensor:
        """Values of the tokens, packed, as the model sees these: (1, tokens of this rank) or (batch, tokens)."""
        if self._is_packed(micro_batch):
            return values.unsqueeze(0)
        padded = values.new_zeros(shape)
        is_token = torch.arange(shape[1], device=values.device) < micro_batch["input_ids"].offsets().diff().unsqueeze(1)
        padded[is_token] = values
        return padded

    def _is_packed(self, micro_batch: TensorDict) -> bool:
        return bool(tu.get_non_tensor_data(data=micro_batch, key="use_remove_padding", default=True))

    def _attach_head(self, module) -> HeadInModel | None:
        """The chunked head, unless the user or the model has another; `loss_head` says which it became."""
        options = self.model_config.fused_kernel_options or {}
        if self.model_config.use_fused_kernels:
            self.loss_head = f"verl's fused head, {options.get('impl_backend')} (model.use_fused_kernels=True)"
            return None
        chosen = options.get("loss_head", "chunked")
        if chosen not in LOSS_HEADS:
            raise ConfigError("model.fused_kernel_options.loss_head", given=chosen, expected=" or ".join(LOSS_HEADS))
        if chosen == "plain":
            self.loss_head = "plain, all logits at once (model.fused_kernel_options.loss_head=plain)"
            return None
        head = module.get_output_embeddings()
        reason = why_not_chunked(head, module.config, strategy=self.engine_config.strategy)
        if reason is not None:
            self.loss_head = f"plain, all logits at once, because {reason}"
            return None
        self.loss_head = f"chunked, at most {CHUNK_BYTES // 2**20} MiB of logits at a time"
        return HeadInModel(head)

    def _build_fsdp_module(self, module):
        self._head = self._attach_head(module)
        with self._head_outside_its_own_unit(module):
            return super()._build_fsdp_module(module)

    @contextmanager
    def _head_outside_its_own_unit(self, module) -> Iterator[None]:
        """Keep lm_head in the root FSDP2 unit while a fused head reads its weight outside its forward.

        verl wraps an untied lm_head on its own (utils/fsdp_utils.py, `_select_fsdp2_wrap_targets`), and FSDP2
        then hands the fused forward a sharded weight. An adapter's layer cannot be wrapped at all: torch does not
        let FSDP2 change its class. Tied embeddings are left in the root unit, so the model counts as tied while it
        is wrapped (seen in verl 0.9.1).
        """
        config = module.config
        tied = config.tie_word_embeddings
        has_adapter = isinstance(module.get_output_embeddings(), BaseTunerLayer)
        if self.engine_config.strategy == "fsdp2" and (self.model_config.use_fused_kernels or has_adapter):
            config.tie_word_embeddings = True
        try:
            yield
        finally:
            config.tie_word_embeddings = tied

    def load_checkpoint(self, *args, **kwargs) -> None:
        with only_known_types():
            super().load_checkpoint(*args, **kwargs)


class ExactFSDPEngineWithLMHead(ExactLogProbs, FSDPEngineWithLMHead):
    """FSDP on GPUs for `verl_ext.trainer`."""
