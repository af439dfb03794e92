"""A prompt once for all of its answers: which tokens of a batch go through the model, and how to get back to its rows.

NFT, GRPO and their like train on many answers to one prompt. A packed sequence holds the prompt with the first answer,
and each further answer behind it with the prompt's last token alone, which predicts the answer's first one:

    row 0 whole                 positions 0 .. p + a0 - 1
    row k without p - 1 tokens  positions p - 1 .. p + ak - 1

So labels are the next tokens, as ever, and `position_ids` alone tell the attention what each piece continues
(`verl_ext.engine.attention.documents_from_position_ids`). Log-probabilities, entropies and their gradients are those of
the rows: the tokens that are left out would have been computed from the same numbers again.

Rows share what they have in common whatever they are called: prompts are compared token by token.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from omegaconf import DictConfig
from tensordict import NonTensorData, TensorDict
from torch import Tensor
from transformers import PretrainedConfig
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_name
from verl.utils.seqlen_balancing import calculate_workload, ceildiv, get_seqlen_balanced_partitions

from verl_ext.engine.attention import ATTENTION_NAME
from verl_ext.errors import ConfigError

LAYOUT = "shared_prompts"
"""Key of a micro-batch under which its `Layout` travels."""

TOKENS_OF_ROWS, TOKENS_COMPUTED = "shared_prompts/tokens_of_rows", "shared_prompts/tokens_computed"
"""Metrics of a micro-batch where prompts are shared."""

WORTH_SHARING = 0.9
"""Share of the tokens from which on rows go through the model as they are: fewer micro-batches, nothing to win."""

TOKEN_KEYS = ("input_ids", "position_ids", "loss_mask")
"""Entries with one value a token that the model's input is made of."""


@dataclass(frozen=True)
class Layout:
    """The tokens of a micro-batch that go through the model."""

    kept: Tensor
    """(tokens computed,), int64: for each its place among the tokens of all rows; the rows of a group lie side by side."""
    offsets: Tensor
    """(rows + 1,), int64: where the kept tokens of each row start, in the order in which rows are laid out."""
    back: Tensor
    """(tokens of all rows,), int64: where to find each among those computed."""

    @classmethod
    def of(cls, lengths: Sequence[int], groups: Sequence[Sequence[int]], prompts: Sequence[int]) -> Layout:
        """Lay out rows of which those of a group begin with the same prompt.

        Args:
            lengths: tokens of each row.
            groups: rows, by place, that share their prompt; together all rows.
            prompts: tokens of each row's prompt, at least 1.
        """
        starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
        kept, kept_lengths, total = [], [], 0
        back: list[list[Tensor]] = [[] for _ in lengths]
        for group in groups:
            first = total
            for row in group:
                prefix = 0 if row == group[0] else prompts[row] - 1
                own = lengths[row] - prefix
                kept.append(torch.arange(starts[row] + prefix, starts[row + 1]))
                back[row] = [torch.arange(first, first + prefix), torch.arange(total, total + own)]
                kept_lengths.append(own)
                total += own
        offsets = F.pad(torch.tensor(kept_lengths).cumsum(0), (1, 0))
        return cls(torch.cat(kept), offsets, torch.cat([part for parts in back for part in parts]))

    def to(self, device: torch.device) -> Layout:
        return Layout(self.kept.to(device), self.offsets.to(device), self.back.to(device))

    def apply(self, micro_batch: TensorDict) -> TensorDict:
        """A copy of the micro-batch with the tokens alone that go through the model."""
        laid_out = micro_batch.copy()
        for key in TOKEN_KEYS:
            if key in micro_batch:
                values = micro_batch[key].values().index_select(0, self.kept)
                laid_out[key] = torch.nested.nested_tensor_from_jagged(values, self.offsets)
        return laid_out

    def undo(self, output: dict[str, Tensor], row_offsets: Tensor) -> dict[str, Tensor]:
        """What the model gave for the tokens computed, as rows: (rows, tokens) jagged each; differentiable."""
        return {
            name: torch.nested.nested_tensor_from_jagged(values.values().index_select(0, self.back), row_offsets)
            for name, values in output.items()
        }


def prompt_lengths(data: TensorDict) -> list[int]:
    """Tokens of each row before its answer: of `prompts` where the batch has it, else before the first learned token."""
    lengths = data["input_ids"].offsets().diff()
    if "prompts" in data:
        counts = data["prompts"].offsets().diff()
    else:
        counts = torch.stack([_before_first(mask) for mask in data["loss_mask"].unbind()])
    return counts.to(lengths.device).minimum(lengths).clamp(min=1).tolist()


def _before_first(mask: Tensor) -> Tensor:
    learned = mask.bool()
    return torch.where(learned.any(), learned.int().argmax(), learned.numel())


def groups_of(data: TensorDict, prompts: Sequence[int]) -> list[list[int]]:
    """Rows with the same prompt, in the order in which the first of each appears."""
    rows = data["input_ids"].unbind()
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row, (ids, length) in enumerate(zip(rows, prompts, strict=True)):
        groups[ids[:length].cpu().numpy().tobytes()].append(row)
    return list(groups.values())


def tokens_computed(group: Sequence[int], lengths: Sequence[int], prompts: Sequence[int]) -> int:
    """Tokens of rows that share their prompt."""
    return sum(lengths[row] for row in group) - sum(prompts[row] - 1 for row in group[1:])


def shared_micro_batches(
    data: TensorDict, dp_group: dist.ProcessGroup | None, split: Callable
) -> tuple[list[TensorDict], list[list[int]] | None]:
    """Micro-batches that keep the rows of a prompt together, each with its `Layout`.

    All ranks of the group get as many. With `use_dynamic_bsz` none has more tokens to compute than its budget; a prompt
    whose answers exceed it is in several. Without, the micro-batches are verl's, and share what they hold.

    Args:
        data: a batch of this rank, in which nothing speaks against sharing (`why_not_in_batch`).
        dp_group: of the ranks that hold other rows.
        split: verl's `prepare_micro_batches`, which also splits a batch that has too little to share.

    Returns:
        The micro-batches, and the rows of each; None for the rows where they are as many and in order.

    Raises:
        ValueError: a row exceeds the budget.
    """
    lengths = data["input_ids"].offsets().diff().tolist()
    prompts = prompt_lengths(data)
    groups = groups_of(data, prompts)
    computed = sum(tokens_computed(group, lengths, prompts) for group in groups)
    computed, total = _over_ranks([computed, sum(lengths)], dp_group, dist.ReduceOp.SUM)
    if computed > WORTH_SHARING * total:
        return split(data=data, dp_group=dp_group, same_micro_num_in_dp=True)
    if tu.get_non_tensor_data(data=data, key="use_dynamic_bsz", default=True):
        sp_size = tu.get_non_tensor_data(data=data, key="sp_size", default=1)
        indices = _split_by_budget(groups, lengths, prompts, data["max_token_len_per_gpu"] * sp_size, dp_group)
        micro_batches = [tu.index_select_tensor_dict(data, rows) for rows in indices]
    else:
        micro_batches, indices = split(data=data, dp_group=dp_group, same_micro_num_in_dp=True)
    for micro_batch in micro_batches:
        _add_layout(micro_batch)
    return micro_batches, indices


def layout_of(micro_batch: TensorDict) -> Layout | None:
    """The layout of a micro-batch, on the device of its tokens; None where rows go through the model as they are."""
    layout = tu.get_non_tensor_data(data=micro_batch, key=LAYOUT, default=None)
    return None if layout is None else layout.to(micro_batch["input_ids"].device)


def why_not_shared(config: PretrainedConfig, *, attention: str) -> str | None:
    """What keeps a model from sharing prompts, as a phrase; None if nothing does.

    Args:
        config: of the model.
        attention: its `attn_implementation`; any but ours would let answers see each other.
    """
    if attention != ATTENTION_NAME:
        return f"the attention is {attention}"
    config = config.get_text_config()
    unlike = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if unlike:
        return f"the model has layers of the kind {min(unlike)}, which carry a state from one answer into the next"
    stateful = [key for key in ("ssm_cfg", "mamba_d_state", "ssm_state_size", "conv_L_cache") if hasattr(config, key)]
    if stateful:
        return f"the model has layers that carry a state from one answer into the next ({stateful[0]})"
    dropouts = [key for key in ("attention_dropout", "resid_pdrop", "embd_pdrop") if getattr(config, key, 0.0)]
    if dropouts:
        return f"the model drops at random ({dropouts[0]}), and a shared prompt would be dropped once for all"
    return None


def shares_prompts(
    asked: bool | None, hf_config: PretrainedConfig, model: DictConfig, *, on_gpu: bool, key: str
) -> bool:
    """Whether a run shares prompts.

    Args:
        asked: what the configuration says; None for wherever it is possible on a CPU.
        hf_config: of the model.
        model: verl's group of that name.
        on_gpu: where training runs.
        key: of the configuration, for errors.

    Raises:
        ConfigError: asked for where it would be wrong.
    """
    reason = why_not_shared(hf_config, attention=model.override_config.get("attn_implementation", ATTENTION_NAME))
    if reason is None and not model.use_remove_padding:
        reason = "rows are padded (use_remove_padding=False)"
    if reason is None and (dropout := _dropout_of_adapter(model.lora_adapter_path)):
        reason = f"the adapter drops at random (lora_dropout={dropout:g})"
    if asked and reason is not None:
        raise ConfigError(key, given=True, expected=f"False, because {reason}")
    return asked if asked is not None else reason is None and not on_gpu


def _dropout_of_adapter(folder: str | None) -> float:
    path = Path(folder) / "adapter_config.json" if folder else None
    return json.loads(path.read_text()).get("lora_dropout", 0.0) if path and path.is_file() else 0.0


def why_not_in_batch(data: TensorDict) -> str | None:
    """What keeps a batch from sharing prompts, as a phrase; None if nothing does."""
    if not tu.get_non_tensor_data(data=data, key="use_remove_padding", default=True):
        return "rows are padded (use_remove_padding=False)"
    if data["position_ids"].dim() == 3:
        return "positions have three dimensions"
    if isinstance(data.get("temperature", None), Tensor):
        return "every row has a temperature of its own"
    for key in ("multi_modal_inputs", "routed_experts"):
        if key in data:
            return f"the batch has {key}"
    for key in ("distillation_use_topk", "distillation_only"):
        if tu.get_non_tensor_data(data=data, key=key, default=False):
            return f"the batch asks for {key}"
    return None


def _add_layout(micro_batch: TensorDict) -> None:
    lengths = micro_batch["input_ids"].offsets().diff().tolist()
    prompts = prompt_lengths(micro_batch)
    groups = groups_of(micro_batch, prompts)
    if len(groups) < len(lengths):
        tu.assign_non_tensor(micro_batch, **{LAYOUT: NonTensorData(Layout.of(lengths, groups, prompts))})


def _split_by_budget(
    groups: Sequence[Sequence[int]],
    lengths: Sequence[int],
    prompts: Sequence[int],
    budget: int,
    dp_group: dist.ProcessGroup | None,
) -> list[list[int]]:
    """Rows of each micro-batch: whole groups, or as few even parts of one as fit; as many micro-batches on all ranks.

    Raises:
        ValueError: a single row exceeds the budget, on whichever rank.
    """
    longest = _largest(max(lengths), dp_group)
    if longest > budget:
        raise ValueError(f"a row has {longest} tokens and a micro-batch may have {budget}")
    parts = [part for group in groups for part in _parts(group, lengths, prompts, budget)]
    cost = [tokens_computed(part, lengths, prompts) for part in parts]
    count = _largest(ceildiv(sum(cost), budget), dp_group)
    while True:
        while len(parts) < count:  # another rank needs more
            _halve_the_largest(parts, lengths, prompts)
        cost = [tokens_computed(part, lengths, prompts) for part in parts]
        workloads = calculate_workload(torch.tensor(cost)).tolist()
        bins = get_seqlen_balanced_partitions(workloads, count, equal_size=False)
        fits = all(sum(cost[part] for part in bin_) <= budget for bin_ in bins)
        if not _largest(int(not fits), dp_group):
            break
        count += 1
    bins = sorted(bins, key=lambda bin_: -sum(workloads[part] for part in bin_))
    return [[row for part in bin_ for row in parts[part]] for bin_ in bins]


def _parts(group: Sequence[int], lengths: Sequence[int], prompts: Sequence[int], budget: int) -> list[list[int]]:
    for number in range(1, len(group) + 1):
        size = ceildiv(len(group), number)
        parts = [list(group[start : start + size]) for start in range(0, len(group), size)]
        if all(tokens_computed(part, lengths, prompts) <= budget for part in parts):
            return parts
    raise AssertionError("a single row fits")


def _halve_the_largest(parts: list[list[int]], lengths: Sequence[int], prompts: Sequence[int]) -> None:
    """Raises:
    ValueError: every part is a single row: this rank has fewer rows than another has micro-batches.
    """
    several = [part for part in parts if len(part) > 1]
    if not several:
        raise ValueError(f"another rank needs more micro-batches than the {len(parts)} rows that this one has")
    largest = max(several, key=lambda part: tokens_computed(part, lengths, prompts))
    place = parts.index(largest)
    half = ceildiv(len(largest), 2)
    parts[place : place + 1] = [largest[:half], largest[half:]]


def _largest(value: int, group: dist.ProcessGroup | None) -> int:
    return int(_over_ranks([value], group, dist.ReduceOp.MAX)[0])


def _over_ranks(values: list[int], group: dist.ProcessGroup | None, how: dist.ReduceOp.RedOpType) -> list[int]:
    if not dist.is_initialized() or group is None:
        return values
    holder = torch.tensor(values, device=get_device_name())
    dist.all_reduce(holder, op=how, group=group)
    return holder.tolist()
