"""Graded generations as verl's actor update gets them, with GRPO's advantages written out."""

from __future__ import annotations

import statistics
from functools import partial

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.workers.config import ActorConfig
from verl.workers.utils.losses import ppo_loss

from verl_ext.trainer.online.algorithm import NFTPolicyLossConfig


def grpo_advantages(correct: list[bool], *, by_std: bool) -> list[float]:
    """Advantages of one group, rewards 0 and 1; `by_std` divides by the population standard deviation."""
    rewards = [float(c) for c in correct]
    mean = statistics.fmean(rewards)
    scale = statistics.pstdev(rewards) if by_std else 1.0
    return [(reward - mean) / scale for reward in rewards]


def actor_batch(rows: list[dict[str, Tensor]], advantages: list[float], **settings) -> TensorDict:
    """What `update_actor` is given for `RolloutDataset` rows and an advantage for each.

    Args:
        rows: a row may say by `response` (as long as its `loss_mask`) which tokens are its response; else those are
            that are learned.
        settings: non-tensor entries, such as micro_batch_size_per_gpu.
    """
    of_responses = [row.get("response", row["loss_mask"]).bool() for row in rows]

    def jagged(name: str, of_response: bool | None = None) -> Tensor:
        """An entry of all rows: whole, of the response alone, or of the prompt alone."""
        kept = [slice(None) if of_response is None else mask == of_response for mask in of_responses]
        parts = [row[name][part] for row, part in zip(rows, kept, strict=True)]
        return torch.nested.as_nested_tensor(parts, layout=torch.jagged)

    responses = jagged("input_ids", True)
    tensors = {
        "input_ids": jagged("input_ids"),
        "position_ids": jagged("position_ids"),
        "loss_mask": jagged("loss_mask"),
        "prompts": jagged("input_ids", False),
        "responses": responses,
        "response_mask": jagged("loss_mask", True),
        "old_log_probs": jagged("old_log_probs", True),
        "advantages": torch.nested.as_nested_tensor(
            [
                torch.full((len(ids),), advantage, dtype=rows[0]["old_log_probs"].dtype)
                for ids, advantage in zip(responses.unbind(), advantages, strict=True)
            ],
            layout=torch.jagged,
        ),
    }
    return tu.get_tensordict(tensor_dict=tensors, non_tensor_dict=settings)


def filler() -> dict[str, Tensor]:
    """A row that only fills up a batch, of the shape of verl's: its response is one token that is not learned."""
    is_response = torch.tensor([0, 0, 1])
    return {
        "input_ids": torch.full((3,), 1),
        "position_ids": torch.arange(3),
        "response": is_response,
        "loss_mask": torch.zeros_like(is_response),
        "old_log_probs": torch.zeros(3),
    }


def grpo_loss(loss_agg_mode: str = "token-mean", **options):
    """verl's own clipped policy loss over the global batch, neither KL nor entropy."""
    config = ActorConfig(
        strategy="fsdp2", rollout_n=8, ppo_micro_batch_size_per_gpu=1, loss_agg_mode=loss_agg_mode, **options
    )
    assert config.policy_loss.loss_mode == "vanilla"
    return partial(ppo_loss, config=config)


def nft_loss(loss_agg_mode: str = "token-mean", loss_scale_factor: int | None = None, **objective):
    """The policy loss `nft` of the online trainer, as verl's actor calls it."""
    policy_loss = NFTPolicyLossConfig(loss_mode="nft", **objective)
    config = ActorConfig(
        strategy="fsdp2",
        rollout_n=8,
        ppo_micro_batch_size_per_gpu=1,
        policy_loss=policy_loss,
        loss_agg_mode=loss_agg_mode,
        loss_scale_factor=loss_scale_factor,
    )
    return partial(ppo_loss, config=config)
