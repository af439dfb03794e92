"""The loss of graded generations: its reductions written out, and its gradient that of verl's own GRPO."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu

from tests.support.actor_batch import actor_batch, grpo_advantages, grpo_loss
from verl_ext.objectives.nft import nft_token_loss
from verl_ext.objectives.nft_config import NFTConfig
from verl_ext.trainer.supervised.nft_loss import nft_offline_loss

GROUPS = [[True] * 3 + [False] * 5, [False] * 7 + [True]]
RANKS = 2


def rows(*, on_policy: bool) -> list[dict[str, torch.Tensor]]:
    """Sixteen responses of different lengths as `RolloutDataset` gives them, in fp64, each with `log_probs` beside."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for group in GROUPS:
        rate = sum(group) / len(group)
        for is_correct in group:
            prompt, response = torch.randint(1, 7, (2,), generator=generator).tolist()
            length = prompt + response
            mask = torch.tensor([0] * prompt + [1] * response)
            # Entry t is of token t + 1; what belongs to no response token is far off, so that it would be noticed.
            log_probs = -3 * torch.rand(length, dtype=torch.float64, generator=generator)
            log_probs = torch.where(mask.roll(-1).bool(), log_probs, 100.0)
            noise = 0.0 if on_policy else 0.5 * torch.randn(length, dtype=torch.float64, generator=generator)
            old = torch.where(mask.bool(), log_probs.roll(1) + noise, 0.0)
            made.append(
                {
                    "input_ids": torch.arange(length),
                    "position_ids": torch.arange(length),
                    "loss_mask": mask,
                    "old_log_probs": old,
                    "correct": torch.tensor([float(is_correct)]),
                    "correct_rate": torch.tensor([rate], dtype=torch.float64),
                    "log_probs": log_probs.requires_grad_(),
                }
            )
    return made


def filler() -> dict[str, torch.Tensor]:
    """A row of one token that carries no loss."""
    zero = torch.zeros(1, dtype=torch.float64)
    ids = torch.zeros(1, dtype=torch.int64)
    return {
        **{name: ids for name in ("input_ids", "position_ids", "loss_mask")},
        **{name: zero for name in ("old_log_probs", "correct", "correct_rate")},
        "log_probs": torch.full((1,), 100.0, dtype=torch.float64, requires_grad=True),
    }


def jagged(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.nested.as_nested_tensor(parts, layout=torch.jagged)


def nft_batch(part: list[dict[str, torch.Tensor]]) -> TensorDict:
    return tu.get_tensordict({name: jagged([row[name] for row in part]) for name in part[0] if name != "log_probs"})


def gradients(data: list[dict[str, torch.Tensor]], of_micro_batch, micro_batch_size: int) -> torch.Tensor:
    """Of each row's log-probs, from all micro-batches of all ranks: FSDP averages what ranks have added up."""
    for row in data:
        row["log_probs"].grad = None
    share = len(data) // RANKS
    for first in range(0, len(data), micro_batch_size):
        assert first // share == (first + micro_batch_size - 1) // share, "a micro-batch is one rank's"
        part = data[first : first + micro_batch_size]
        batch, loss_function = of_micro_batch(part)
        tu.assign_non_tensor(
            batch,
            dp_size=RANKS,
            batch_num_tokens=sum(int(row["loss_mask"].sum()) for row in data),
            global_batch_size=len(data),
            num_responses=sum(bool(row["loss_mask"].any()) for row in data),
        )
        loss, _ = loss_function(model_output={"log_probs": jagged([row["log_probs"] for row in part])}, data=batch)
        (loss / RANKS).backward()
    return torch.cat([row["log_probs"].grad for row in data])


@pytest.mark.parametrize("micro_batch_size", [1, 2, 8])
@pytest.mark.parametrize("prompt_weight", ["grpo", "dr_grpo"])
@pytest.mark.parametrize("eps", [1.0, 0.1])
def test_on_policy_the_gradient_is_that_of_verls_grpo(micro_batch_size, prompt_weight, eps):
    """In fp64, through verl's own loss: population standard deviation ("grpo"), rewards 0 and 1 ("dr_grpo")."""
    data = rows(on_policy=True)
    advantages = [a for group in GROUPS for a in grpo_advantages(group, by_std=prompt_weight == "grpo")]
    of_row = {id(row): advantage for row, advantage in zip(data, advantages, strict=True)}
    settings = NFTConfig(prompt_weight=prompt_weight, eps=eps)

    def nft(part):
        def loss(**arguments):
            return nft_offline_loss(**arguments, settings=settings, reduction="token_mean")

        return nft_batch(part), loss

    def grpo(part):
        return actor_batch(part, [of_row[id(row)] for row in part]), grpo_loss()

    expected = gradients(data, grpo, micro_batch_size)
    assert expected.abs().max() > 1e-3
    assert torch.allclose(gradients(data, nft, micro_batch_size), expected, atol=1e-15, rtol=1e-13)


def reduced_by_hand(data, settings: NFTConfig, reduction: str) -> torch.Tensor:
    """Row by row, without packing, micro-batches or ranks."""
    of_responses = []
    for row in data:
        learned = row["loss_mask"].bool()
        losses = nft_token_loss(
            row["log_probs"].roll(1)[learned][None],
            row["old_log_probs"][learned][None],
            row["correct"],
            row["correct_rate"],
            response_mask=torch.ones(1, int(learned.sum())),
            **asdict(settings),
        )
        of_responses.append(losses[0])
    if reduction == "token_mean":
        return torch.cat(of_responses).mean()
    means = torch.stack([losses.mean() for losses in of_responses])
    if reduction == "response_mean":
        return means.mean()
    return (torch.cat(of_responses).sum() / 1000 if settings.ratio == "token" else means.sum()) / RANKS


@pytest.mark.parametrize("fillers", [0, 8])
@pytest.mark.parametrize("ratio", ["token", "sequence", "sequence_mean"])
@pytest.mark.parametrize("reduction", ["token_mean", "response_mean", "published"])
def test_micro_batches_and_ranks_add_up_to_the_formula(ratio, reduction, fillers):
    settings = NFTConfig(ratio=ratio, eps=0.5, neg_weight=0.5, positive_floor=0.2)
    data = rows(on_policy=False)
    reduced_by_hand(data, settings, reduction).backward()
    expected = torch.cat([row["log_probs"].grad for row in data])
    assert expected.abs().max() > 1e-5

    def nft(part):
        def loss(**arguments):
            return nft_offline_loss(**arguments, settings=settings, reduction=reduction)

        return nft_batch(part), loss

    for micro_batch_size in (1, 2, 4):
        found = gradients(data + [filler() for _ in range(fillers)], nft, micro_batch_size)
        assert torch.allclose(found[: len(expected)], expected, atol=1e-15, rtol=1e-12)
        assert not found[len(expected) :].any()


def test_without_negatives_only_correct_answers_have_a_gradient():
    data = rows(on_policy=False)

    def rft(part):
        def loss(**arguments):
            settings = NFTConfig(neg_weight=0, prompt_weight="uniform")
            return nft_offline_loss(**arguments, settings=settings, reduction="token_mean")

        return nft_batch(part), loss

    found = gradients(data, rft, 4).split([len(row["input_ids"]) for row in data])
    tokens = sum(int(row["loss_mask"].sum()) for row in data)
    for row, gradient in zip(data, found, strict=True):
        expected = -row["loss_mask"].roll(-1) * row["correct"] / tokens
        assert torch.allclose(gradient, expected.double(), atol=1e-16)


def test_sums_for_the_log_add_up_over_micro_batches():
    data = rows(on_policy=False)

    def sums(part):
        _, logged = nft_offline_loss(
            {"log_probs": jagged([row["log_probs"].detach() for row in part])},
            tu.get_tensordict(nft_batch(part), {"dp_size": 1, "batch_num_tokens": 1}),
            settings=NFTConfig(),
            reduction="token_mean",
        )
        return logged

    whole, parts = sums(data), [sums(data[first : first + 4]) for first in range(0, len(data), 4)]
    for name, value in whole.items():
        assert torch.allclose(torch.as_tensor(value), torch.as_tensor(sum(part[name] for part in parts)), rtol=1e-5)
    learned = torch.cat([row["log_probs"].roll(1)[row["loss_mask"].bool()] for row in data]).detach()
    assert whole["sum_cross_entropy"] == pytest.approx(-learned.sum().item(), rel=1e-6)
    assert whole["sum_prob"] == pytest.approx(learned.exp().sum().item(), rel=1e-6)
    assert whole["num_tokens"] == len(learned)
