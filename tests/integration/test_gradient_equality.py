"""Loss and gradient are the same in every mode of the trainer, and equal to plain transformers."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tests.conftest import write_parquet
from tests.support.tiny_model import save_tiny_model
from verl_ext.objectives.registry import objective_names

WORKER = Path(__file__).with_name("gradient_equality_worker.py")
TOLERANCE = 1e-6


def save_adapter(model: Path, folder: Path, target_modules: str | list[str] = "all-linear") -> None:
    """A LoRA adapter whose second matrix is not zero, so that both get a gradient."""
    config = LoraConfig(r=4, lora_alpha=16, target_modules=target_modules, task_type="CAUSAL_LM")
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(folder)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("equality")
    for name, options in {"tied": {}, "untied": {"tied": False}, "one_kv_head": {"kv_heads": 1}}.items():
        save_tiny_model(folder / name, **options)
        save_adapter(folder / name, folder / f"{name}_adapter")
    save_adapter(folder / "untied", folder / "untied_head_adapter", ["q_proj", "lm_head"])
    generator = random.Random(0)
    rows = [
        {"question": "q" * generator.randint(1, 30), "answer": "a" + "bcd " * generator.randint(1, 12)}
        for _ in range(8)
    ]
    for row in rows:
        row["weight"] = generator.random()
        row["token_weights"] = [generator.random() for _ in row["answer"] + "E"]  # a byte a token, and the end
    write_parquet(folder / "train.parquet", rows)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("ranks", [1, 2])
def test_loss_and_gradient_are_equal_in_every_mode(workspace, ranks):
    """{ranks} x {SP} x {padded, packed} x {micro-batch} x {chunked, verl's fused head} x {LoRA}, tied and untied, few
    KV heads; the plain head, and LoRA on the head; every objective in several of them.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    ended = subprocess.run(
        [*launcher, str(WORKER), str(workspace)], check=False, capture_output=True, text=True, timeout=900
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    results = json.loads((workspace / f"result_{ranks}.json").read_text())

    covered = {(r["mode"]["sp"], r["mode"]["packed"], r["mode"]["fused"], r["mode"]["lora"]) for r in results}
    assert len(covered) == (8 if ranks == 1 else 12)
    assert {r["mode"]["micro"] for r in results} == {1, 2, 4, "dynamic"}
    wrong = [r for r in results if max(r["loss_error"], r["gradient_error"]) > TOLERANCE * max(r["gradient_scale"], 1)]
    assert not wrong
    assert {r["mode"]["objective"] for r in results} == set(objective_names())
    assert not [r["mode"] for r in results if r["second_passes"] and not r["may_have_second_pass"]], (
        "the chunked head did not know the objective"
    )
    assert all(r["gradient_scale"] > 1e-3 for r in results), "gradients too small for the comparison to mean anything"
