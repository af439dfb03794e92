"""An objective that a user writes into a file outside the package, as the documentation has it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.launch import finish, metrics, python_path, start, trainer_arguments
from verl_ext.data.batching import GlobalBatches
from verl_ext.data.sft_dataset import SFTDataConfig, SFTDataset

DOCUMENTATION = Path(__file__).resolve().parents[2] / "docs" / "training.md"
STEPS, LEARNING_RATE, STRENGTH = 3, 3e-3, 0.7


def documented_file() -> str:
    """The Python of the documentation that registers an objective."""
    blocks = re.findall(r"```python\n(# my_objective\.py.*?)```", DOCUMENTATION.read_text(), re.DOTALL)
    assert len(blocks) == 1
    return blocks[0]


def plain_losses(model_folder, train_file) -> list[float]:
    """The same run with transformers and torch.optim alone."""
    nested = {"prompt_key": "extra_info", "response_key": "extra_info"}
    nested |= {"prompt_dict_keys": ["question"], "response_dict_keys": ["answer"]}
    dataset = SFTDataset([str(train_file)], AutoTokenizer.from_pretrained(model_folder), SFTDataConfig(**nested))
    batches = GlobalBatches(len(dataset), 8, seed=1)
    model, start_model = (
        AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32, attn_implementation="sdpa")
        for _ in range(2)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    logged = []
    for step in range(STEPS):
        losses = []
        for row in (dataset[index] for index in batches.of_step(step)):
            log_p, log_start = (
                m(input_ids=row["input_ids"][None])
                .logits[0, :-1]
                .log_softmax(-1)
                .gather(-1, row["input_ids"][1:, None])
                for m in (model, start_model)
            )
            moved = log_p - log_start.detach()
            losses.append((-log_p + STRENGTH * moved**2)[row["loss_mask"][1:].bool()])
        loss = torch.cat(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        logged.append(loss.item())
    return logged


def test_the_documented_file_is_short():
    assert len(documented_file().splitlines()) <= 25


@pytest.mark.slow
def test_an_objective_of_ones_own_has_a_parameter_and_a_reference_model(model_folder, train_file, tmp_path):
    (tmp_path / "my_objective.py").write_text(documented_file())
    arguments = trainer_arguments(
        *(model_folder, train_file, tmp_path / "run", "model.external_lib=my_objective"),
        *("objective.name=anchored_sft", f"objective.strength={STRENGTH}", f"trainer.total_training_steps={STEPS}"),
        *("optim.lr_scheduler_type=constant", "optim.lr_warmup_steps_ratio=0", f"optim.lr={LEARNING_RATE}"),
    )
    path = python_path(tmp_path)
    log = tmp_path / "log.txt"
    assert finish(start(arguments, ranks=0, log=log, environment={"PYTHONPATH": path})) == 0, log.read_text()
    entries = metrics(tmp_path / "run")
    expected = plain_losses(model_folder, train_file)
    assert [entry["train/loss"] for entry in entries] == pytest.approx(expected, rel=1e-4)
    assert entries[-1]["train/loss"] > entries[-1]["train/cross_entropy"] + 1e-3, "the reference decided nothing"

    arguments.append("objective.strength=-1")
    assert finish(start(arguments, ranks=0, log=log, environment={"PYTHONPATH": path})) == 2
    assert "error: objective.strength: got -1.0, expected 0 or more" in log.read_text()
