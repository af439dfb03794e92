"""Run by torchrun: loss and gradient of the real trainer in many modes against a plain transformers loop.

Usage: gradient_equality_worker.py WORKSPACE; writes WORKSPACE/result_<ranks>.json, a list of
{mode, loss_error, gradient_error, gradient_scale, second_passes}, the last of them how often the chunked head had to
compute logits again in a backward pass.

The policy of an objective that compares it with another is made a different one: its weights are scaled, after the old
policy's log-probs are taken, unless an adapter makes the difference.
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
COMPARES = ("asft", "iw_sft", "psft")
WITH_SECOND_PASS = ("iw_sft", "psft")
"""Objectives for whose gradient the head computes logits again."""


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


def reference(workspace: Path, mode: dict, rows: list[dict]):
    """Loss and gradients of plain transformers, one row at a time, mean over the tokens that count."""
    model = workspace / mode["model"]
    network, start = (
        AutoModelForCausalLM.from_pretrained(model, attn_implementation="sdpa", dtype=torch.float32) for _ in range(2)
    )
    if mode["lora"]:
        network = PeftModel.from_pretrained(network, workspace / adapter_of(mode), is_trainable=True)
    scale_weights(network, mode)
    total, tokens = 0.0, 0
    for row in rows:
        labels, mask = row["input_ids"][1:], row["loss_mask"][1:].bool()
        logits = network(input_ids=row["input_ids"][None]).logits[0, :-1][mask]
        with torch.no_grad():
            start_logits = start(input_ids=row["input_ids"][None]).logits[0, :-1][mask]
        losses, counts = token_losses(mode, logits, start_logits, labels[mask])
        if "weights" in row:
            losses = losses * row["weights"][1:][mask]
        total, tokens = total + losses.sum(), tokens + counts
    loss = total / tokens
    loss.backward()
    return loss.item(), {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def token_losses(mode: dict, logits: torch.Tensor, start_logits: torch.Tensor, labels: torch.Tensor):
    """Losses of the learned tokens of a row, and how many of them count."""
    log_dist, start_dist = logits.log_softmax(-1), start_logits.log_softmax(-1)
    log_p, log_start = (dist.gather(-1, labels[:, None])[:, 0] for dist in (log_dist, start_dist))
    p, kl = log_p.detach().exp(), torch.nn.functional.kl_div
    name, given = mode["objective"], mode.get("given", {})
    if name in ("sft", "dft"):
        return -log_p * (p if name == "dft" else 1), len(p)
    if name == "power":
        return (1 - log_p.exp() ** given["alpha"]) / given["alpha"], len(p)
    if name in ("top_p", "top_log_p"):
        kept = p >= given["threshold"]
        losses = (1 - log_p.exp() if name == "top_p" else -log_p) * kept
        return losses, len(p) if given.get("denominator") == "all" else int(kept.sum())
    if name == "eaft":
        best = logits.detach().topk(given["top_k"]).values.softmax(-1)
        return -log_p * (torch.special.entr(best).sum(-1) / 3) ** given["alpha"], len(p)
    if name == "asft":
        pair = (log_dist, start_dist) if given["direction"] == "forward" else (start_dist, log_dist)
        return -log_p * p + given["kl_weight"] * kl(*pair, reduction="none", log_target=True).sum(-1), len(p)
    ratio = (log_p - log_start).detach()
    if name == "iw_sft":
        weight = (2 * ratio.mean()).exp().clamp(max=16) if given["level"] == "sequence" else ratio.exp().clamp(0.2, 1.8)
        return -log_p * weight, len(p)
    assert name == "psft"
    return -(log_p - log_start).exp().clamp(max=1.28), len(p)


def scale_weights(network: torch.nn.Module, mode: dict) -> None:
    if mode["objective"] in COMPARES and not mode["lora"]:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1.03)


def full(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def engine_result(config, train_dataset, mode: dict):
    """Loss and gradients of one step of the trainer, before the update."""
    from verl_ext.trainer.run.interruption import Interruption
    from verl_ext.trainer.supervised.dft import DFTTrainer

    trainer = DFTTrainer(config, train_dataset, None, None, None, Interruption())
    data = trainer._train_batch(0)
    scale_weights(trainer.engine.module, mode)
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
        yield usual | {"model": "tied", "fused": fused, "objective": "sft"}
        if not fused:
            yield from modes_of_objectives(usual, world_size)


def modes_of_objectives(usual: dict, world_size: int):
    """Each objective in some modes, and each mode with some objective that asks for something."""
    several = {"sp": min(2, world_size)}
    for name, given, modes_of_it in (
        ("power", {"alpha": 0.5}, ({"micro": "dynamic"},)),
        ("top_p", {"threshold": 0.004}, ({}, several | {"micro": 1})),
        ("top_log_p", {"threshold": 0.004}, ({"micro": 4}, {"packed": False, "micro": 1})),
        ("top_log_p", {"threshold": 0.004, "denominator": "all"}, ({"lora": True},)),
        (
            "eaft",
            {"alpha": 1.5, "top_k": 20},
            ({}, several, {"packed": False, "plain": True}, {"lora": True, "micro": 1}),
        ),
        (
            "asft",
            {"kl_weight": 0.3, "direction": "forward"},
            (*({}, several, {"packed": False, "micro": 1}, {"plain": True}, {"lora": True}),)
            + ({"model": "untied", "lora": True, "adapter": "untied_head_adapter"}, {"model": "untied"}),
        ),
        (
            "asft",
            {"kl_weight": 0.3, "direction": "reverse"},
            ({"micro": "dynamic"}, several | {"lora": True}, {"packed": False, "plain": True, "lora": True}),
        ),
        ("iw_sft", {"level": "sequence"}, ({}, several, {"micro": 1, "packed": False}, {"lora": True, "micro": 4})),
        ("iw_sft", {"level": "token"}, ({"lora": True}, several | {"micro": 1})),
        ("psft", {}, ({}, several, {"packed": False, "micro": "dynamic"})),
        ("sft", {}, ({"weights": "weight"}, {"weights": "token_weights", "micro": 1}, several | {"weights": "weight"})),
    ):
        for mode in modes_of_it:
            if mode.get("sp") != 1:
                yield usual | {"model": "tied", "objective": name, "given": given} | mode


def adapter_of(mode: dict) -> str | None:
    return mode.get("adapter", f"{mode['model']}_adapter") if mode["lora"] else None


def overrides_of(mode: dict, workspace: Path) -> list[str]:
    overrides = [
        f"objective.name={mode['objective']}",
        *(f"objective.{name}={value}" for name, value in mode.get("given", {}).items()),
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
    if "weights" in mode:
        overrides.append(f"data.weights_key={mode['weights']}")
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
            key = (mode["model"], mode["objective"], str(mode.get("given")), mode.get("weights"), adapter_of(mode))
            if key not in references:
                references[key] = reference(workspace, mode, [train_dataset[row] for row in range(BATCH)])
            second_passes.clear()
            loss, gradients = engine_result(config, train_dataset, mode)
            expected_loss, expected = references[key]
            assert gradients.keys() == expected.keys(), gradients.keys() ^ expected.keys()
            results.append(
                {
                    "mode": mode,
                    "loss_error": abs(loss - expected_loss),
                    "gradient_error": max((gradients[n] - expected[n]).abs().max().item() for n in expected),
                    "second_passes": len(second_passes),
                    "may_have_second_pass": mode["objective"] in WITH_SECOND_PASS or "weights" in mode,
                    "gradient_scale": max(g.abs().max().item() for g in expected.values()),
                }
            )
        if dist.get_rank() == 0:
            (workspace / f"result_{world_size}.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
