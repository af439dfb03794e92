"""Every supervised objective against numbers that were computed in 50 digits without any of its code."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from verl_ext.engine.loss_head import top_k_entropy
from verl_ext.objectives.dft import dft_token_loss
from verl_ext.objectives.objective import Rows, TokenInputs
from verl_ext.objectives.registry import build_objective, objective_names

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "objectives_reference.json").read_text())
CASES = GOLDEN["cases"]
LABELS = torch.tensor(GOLDEN["labels"])


def inputs_for(objective, logits: torch.Tensor) -> TokenInputs:
    """What it asks for, of four tokens of one row; another model stands for the reference and for the old policy."""
    needs, given = objective.needs, {}
    dist = logits.log_softmax(-1)
    other = torch.tensor(GOLDEN["other_logits"], dtype=torch.float64).log_softmax(-1)
    of_other = other.gather(1, LABELS[:, None])[:, 0]
    if needs.top_k_entropy:
        given["top_k_entropy"] = top_k_entropy(logits, needs.top_k_entropy)
    if needs.reference_log_probs:
        given["reference_log_probs"] = of_other
    if needs.old_log_probs:
        given["old_log_probs"] = of_other
    if needs.divergence is not None:
        given["divergence"] = needs.divergence(dist, other)
    if needs.rows:
        given["rows"] = Rows(torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.bool))
    return TokenInputs(log_probs=dist.gather(1, LABELS[:, None])[:, 0], **given)


@pytest.mark.parametrize("case", CASES, ids=[f"{case['name']}-{list(case['parameters'].values())}" for case in CASES])
def test_losses_and_their_gradients_are_the_golden_ones(case):
    objective = build_objective(case["name"], case["parameters"])
    logits = torch.tensor(GOLDEN["logits"], dtype=torch.float64, requires_grad=True)
    losses = objective.token_losses(inputs_for(objective, logits))
    losses.sum().backward()
    assert losses.tolist() == pytest.approx(case["losses"], abs=1e-13)
    assert torch.allclose(logits.grad, torch.tensor(case["gradients"], dtype=torch.float64), atol=1e-13, rtol=0)


def test_every_objective_has_golden_values():
    assert {case["name"] for case in CASES} | {"sft", "dft"} == set(objective_names())


def gradient(objective, log_probs: torch.Tensor) -> torch.Tensor:
    log_probs = log_probs.clone().requires_grad_()
    return torch.autograd.grad(objective.token_loss(log_probs).sum(), log_probs)[0]


def test_powers_go_from_sft_to_dft():
    log_probs = torch.tensor([-9.0, -2.0, -0.1, 0.0], dtype=torch.float64)
    assert build_objective("power", {"alpha": 0}).token_loss(log_probs).tolist() == (-log_probs).tolist()
    assert torch.allclose(build_objective("power", {"alpha": 1e-9}).token_loss(log_probs), -log_probs, atol=1e-7)
    of_dft = torch.autograd.grad(dft_token_loss(held := log_probs.clone().requires_grad_()).sum(), held)[0]
    assert torch.allclose(gradient(build_objective("power", {"alpha": 1}), log_probs), of_dft, atol=1e-15)


@pytest.mark.parametrize("name", ["top_p", "top_log_p"])
def test_the_mean_is_over_the_tokens_kept_unless_it_is_over_all(name):
    log_probs = torch.tensor([0.05, 0.1, 0.6], dtype=torch.float64).log()
    inputs = TokenInputs(log_probs=log_probs)
    assert build_objective(name, {"threshold": 0.09}).counted(inputs).tolist() == [False, True, True]
    assert build_objective(name, {"denominator": "all"}).counted(inputs) is None


def test_an_impossible_token_that_is_not_kept_has_no_loss():
    log_probs = torch.tensor([-math.inf, -0.1], dtype=torch.float64).requires_grad_()
    losses = build_objective("top_log_p", {}).token_loss(log_probs)
    assert losses.tolist() == [0.0, 0.1]
    assert torch.autograd.grad(losses.sum(), log_probs)[0].tolist() == [0.0, -1.0]


def test_means_of_rows_are_over_their_learned_tokens():
    index = torch.tensor([0, 0, 0, 1, 1, 2])
    learned = torch.tensor([True, True, False, False, True, False])
    means = Rows(index, learned).mean(torch.tensor([1.0, 3.0, 9.0, 9.0, 5.0, 9.0], dtype=torch.float64))
    assert means.tolist() == [2, 2, 2, 5, 5, 0]


def test_a_token_far_likelier_than_before_is_not_pulled_any_further():
    objective = build_objective("psft", {"clip_high": 0.5})
    log_probs = torch.tensor([0.9, 0.3], dtype=torch.float64).log().requires_grad_()
    inputs = TokenInputs(log_probs=log_probs, old_log_probs=torch.tensor([0.1, 0.25], dtype=torch.float64).log())
    assert torch.autograd.grad(objective.token_losses(inputs).sum(), log_probs)[0].tolist() == pytest.approx([0, -1.2])
