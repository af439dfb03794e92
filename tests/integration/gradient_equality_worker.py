"""Run by torchrun: loss and gradient of the real trainer in many modes against a plain transformers loop.

Usage: gradient_equality_worker.py WORKSPACE; writes WORKSPACE/result_<ranks>.json, a list of
{mode, loss_error, gradient_error, gradient_scale, second_passes}, the last of them how often the chunked head had to
compute logits again in a backward pass.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from peft import PeftModel
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from verl_ext.engine import loss_head
from verl_ext.trainer.run.command_line import compose_config
from verl_ext.trainer.run.launch import choose_device, complete_config, join_ranks, load_datasets
from verl_ext.trainer.supervised.checks import check_device
from verl_ext.trainer.supervised.dft_checks import check_config
from verl_ext.trainer.supervised.vocabulary import DFT_VOCABULARY

BATCH = 8


def compose(workspace: Path, model: str, overrides: list[str]):
    return compose_config(
        "dft_trainer",
        [
            f"model.path={workspace / model}",
            f"data.train_files={workspace / 'train.parquet'}",
            "data.prompt_key=question",
            "data.response_key=answer",
            f"data.train_batch_size={BATCH}",
            "data.shuffle=False",
            "engine.mixed_precision.param_dtype=fp32",
            "trainer.logger=[]",
            f"trainer.default_local_dir={workspace / 'run'}",
            "trainer.resume_mode=disable",
            *overrides,
        ],
        DFT_VOCABULARY,
    )


def reference(workspace: Path, model: str, rows: list[dict], *, objective: str, adapter: str | None):
    """Loss and gradients of plain transformers, one row at a time, mean over all learned tokens."""
    network = AutoModelForCausalLM.from_pretrained(workspace / model, attn_implementation="sdpa", dtype=torch.float32)
    if adapter:
        network = PeftModel.from_pretrained(network, workspace / adapter, is_trainable=True)
    total, tokens = 0.0, 0
    for row in rows:
        logits = network(input_ids=row["input_ids"][None]).logits[0, :-1]
        labels, mask = row["input_ids"][1:], row["loss_mask"][1:].bool()
        cross_entropy = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        if objective == "dft":
            cross_entropy = cross_entropy * logits.softmax(-1).gather(-1, labels[:, None])[:, 0].detach()
        total = total + cross_entropy[mask].sum()
        tokens += int(mask.sum())
    loss = total / tokens
    loss.backward()
    return loss.item(), {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def full(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def engine_result(config, train_dataset):
    """Loss and gradients of one step of the trainer, before the update."""
    from verl_ext.trainer.run.interruption import Interruption
    from verl_ext.trainer.supervised.dft import DFTTrainer

    trainer = DFTTrainer(config, train_dataset, None, None, None, Interruption())
    rows = [train_dataset[row] for row in trainer.train_dataloader.local_rows(0)]
    data = trainer._batch(rows)
    with trainer.engine.train_mode():
        output = trainer.engine.forward_backward_batch(data, trainer.loss_fn)
        loss = torch.tensor(sum(output["loss"]))
        dist.all_reduce(loss)
        loss = loss.item() / dist.get_world_size()
        gradients = {
            name: full(p.grad).clone() for name, p in trainer.engine.module.named_parameters() if p.grad is not None
        }
    return loss, gradients


def modes(world_size: int):
    """Every mode, verl's fused head last: verl patches the model class for it, for the rest of the process."""
    usual = {"sp": 1, "packed": True, "micro": 2, "fused": False, "lora": False, "objective": "dft"}
    yield usual | {"model": "tied", "plain": True}
    yield usual | {"model": "untied", "plain": True, "packed": False}
    yield usual | {"model": "untied", "lora": True, "adapter": "untied_head_adapter"}
    for fused in (False, True):
        for model, sp, packed, micro, lora in itertools.product(
            ("tied", "untied", "one_kv_head"), (1, 2), (True, False), (1, 2, 4, "dynamic"), (False, True)
        ):
            if sp > world_size or (sp > 1 and not packed):
                continue
            if model == "untied" and micro != 2:
                continue
            if model == "one_kv_head" and (micro != 2 or lora or fused):
                continue
            yield {
                "model": model,
                "sp": sp,
                "packed": packed,
                "micro": micro,
                "fused": fused,
                "lora": lora,
                "objective": "dft",
            }
        yield {"model": "tied", "sp": 1, "packed": True, "micro": 2, "fused": fused, "lora": False, "objective": "sft"}


def adapter_of(mode: dict) -> str | None:
    return mode.get("adapter", f"{mode['model']}_adapter") if mode["lora"] else None


def overrides_of(mode: dict, workspace: Path) -> list[str]:
    overrides = [
        f"objective.name={mode['objective']}",
        f"engine.ulysses_sequence_parallel_size={mode['sp']}",
        f"model.use_remove_padding={mode['packed']}",
        f"model.use_fused_kernels={mode['fused']}",
    ]
    if mode["micro"] == "dynamic":
        overrides += ["data.use_dynamic_bsz=True", "data.max_token_len_per_gpu=128", "data.max_length=128"]
    else:
        overrides.append(f"data.micro_batch_size_per_gpu={mode['micro']}")
    if mode.get("plain"):
        overrides.append("model.fused_kernel_options.loss_head=plain")
    if mode["lora"]:
        overrides += ["model.lora_rank=4", f"model.lora_adapter_path={workspace / adapter_of(mode)}"]
    return overrides


def main(workspace: Path) -> None:
    world_size = int(os.environ["WORLD_SIZE"])
    config = compose(workspace, "tied", [])
    device = choose_device(config)
    results, references, second_passes = [], {}, []
    compute = loss_head._gradients
    loss_head._gradients = lambda *args, **kwargs: second_passes.append(1) or compute(*args, **kwargs)
    with join_ranks(device):
        for mode in modes(world_size):
            config = compose(workspace, mode["model"], overrides_of(mode, workspace))
            check_config(config, world_size=world_size)
            check_device(config, device)
            complete_config(config, device)
            train_dataset, _ = load_datasets(config)
            key = (mode["model"], mode["objective"], adapter_of(mode))
            if key not in references:
                rows = [train_dataset[row] for row in range(BATCH)]
                references[key] = reference(
                    workspace, mode["model"], rows, objective=mode["objective"], adapter=adapter_of(mode)
                )
            second_passes.clear()
            loss, gradients = engine_result(config, train_dataset)
            expected_loss, expected = references[key]
            assert gradients.keys() == expected.keys(), gradients.keys() ^ expected.keys()
            results.append(
                {
                    "mode": mode,
                    "loss_error": abs(loss - expected_loss),
                    "gradient_error": max((gradients[n] - expected[n]).abs().max().item() for n in expected),
                    "second_passes": len(second_passes),
                    "gradient_scale": max(g.abs().max().item() for g in expected.values()),
                }
            )
        if dist.get_rank() == 0:
            (workspace / f"result_{world_size}.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
