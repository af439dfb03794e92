"""Objectives against the published code's values and against a few lines written here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from verl_ext.objectives.dft import dft_token_loss
from verl_ext.objectives.registry import get_objective, objective_names, register_objective
from verl_ext.objectives.sft import sft_token_loss

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "dft_reference.json").read_text())["cases"]


@pytest.mark.parametrize("case", GOLDEN, ids=range(len(GOLDEN)))
def test_dft_equals_the_published_trainer(case):
    """The file's `grad_logits_first_token` holds, for each position of the first row, the L1 norm of its gradient."""
    logits = torch.tensor(case["logits"], dtype=torch.float64, requires_grad=True)
    input_ids = torch.tensor(case["input_ids"])
    mask = torch.tensor(case["loss_mask"], dtype=torch.float64)[:, :-1]
    log_probs = logits[:, :-1].log_softmax(-1).gather(-1, input_ids[:, 1:, None])[..., 0]

    loss = (dft_token_loss(log_probs) * mask).sum() / mask.sum()
    loss.backward()

    assert loss.item() == pytest.approx(case["dft_loss"], abs=1e-12)
    assert logits.grad.abs().sum().item() == pytest.approx(case["grad_logits_l1"], abs=1e-12)
    by_position = logits.grad[0].abs().sum(-1).tolist()
    assert by_position == pytest.approx(case["grad_logits_first_token"], abs=1e-12)
    sft = (sft_token_loss(log_probs.detach()) * mask).sum() / mask.sum()
    assert sft.item() == pytest.approx(case["sft_loss"], abs=1e-12)


def test_dft_gradient_is_that_of_minus_the_probability():
    log_probs = torch.linspace(-8, 0, 17, dtype=torch.float64).requires_grad_()
    dft_token_loss(log_probs).sum().backward()
    assert torch.allclose(log_probs.grad, -log_probs.detach().exp(), atol=0, rtol=1e-15)


@pytest.mark.parametrize("token_loss", [dft_token_loss, sft_token_loss])
@pytest.mark.parametrize(
    ("given", "returned"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_losses_are_fp32_or_wider_and_keep_the_shape(token_loss, given, returned):
    losses = token_loss(torch.full((2, 3), -1.5, dtype=given))
    assert (losses.dtype, losses.shape) == (returned, (2, 3))


def test_objectives_are_found_by_name():
    assert {"dft", "sft"} <= set(objective_names())
    assert get_objective("dft") is dft_token_loss


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="'dft' is already registered"):
        register_objective("dft")(lambda log_probs: log_probs)
    assert get_objective("dft") is dft_token_loss


def test_objectives_load_neither_verl_nor_ray():
    code = (
        "import sys, verl_ext.objectives.dft, verl_ext.objectives.registry as r; r.objective_names();"
        "print([m for m in ('verl', 'ray', 'transformers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
