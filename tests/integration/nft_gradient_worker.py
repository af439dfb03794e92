"""Run by torchrun: gradients of updates on graded generations, by this package's losses and by verl's own GRPO.

NFT's are those of the offline trainer, and those of the policy loss `nft` through verl's actor update, as online.

Usage: nft_gradient_worker.py WORKSPACE; writes WORKSPACE/nft_result_<ranks>.json, a list of
{mode, what, online, error, scale}: the largest difference between two gradients, and the largest entry of the expected one.

All are gradients of whole updates: verl's TrainingWorker, engine and optimizer, caught where the optimizer steps (with
a learning rate of 0, so that one model serves every comparison).
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf
from tensordict.tensorclass import NonTensorData
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM
from verl.utils import tensordict_utils as tu

from tests.support.actor_batch import actor_batch, grpo_advantages, grpo_loss, nft_loss
from verl_ext.trainer.run.checkpoints import RunState
from verl_ext.trainer.run.command_line import compose_config
from verl_ext.trainer.run.identity import Identity
from verl_ext.trainer.run.interruption import Interruption
from verl_ext.trainer.run.launch import choose_device, complete_config, join_ranks
from verl_ext.trainer.run.log import RunLog
from verl_ext.trainer.supervised.checks import check_device
from verl_ext.trainer.supervised.nft import NFTOfflineTrainer
from verl_ext.trainer.supervised.nft_checks import check_config
from verl_ext.trainer.supervised.nft_run import load_datasets
from verl_ext.trainer.supervised.vocabulary import NFT_OFFLINE_VOCABULARY

ON_POLICY = [{"prompt_weight": weight} for weight in ("grpo", "dr_grpo")]
OFF_POLICY = [
    {"ratio": "token", "eps": 0.5, "neg_weight": 0.5, "positive_floor": 0.9},
    {"ratio": "sequence", "reduction": "response_mean", "prompt_weight": "grpo"},
    {"ratio": "sequence_mean", "reduction": "response_mean"},
    {"neg_weight": 0, "prompt_weight": "uniform", "reduction": "response_mean"},
]


def compose(workspace: Path, data: str, options: dict):
    return compose_config(
        "nft_offline",
        [
            f"model.path={workspace / 'model'}",
            f"data.rollouts={workspace / data}",
            "data.shuffle=False",
            "data.max_length=128",
            "data.max_token_len_per_gpu=128",
            "engine.mixed_precision.param_dtype=fp32",
            "optim.lr=0",
            "optim.clip_grad=1e9",
            "trainer.logger=[]",
            f"trainer.default_local_dir={workspace / 'run'}",
            "trainer.resume_mode=disable",
            *(f"{key}={value}" for key, value in options.items()),
        ],
        NFT_OFFLINE_VOCABULARY,
    )


class Update:
    """A trainer, and the gradients of its updates."""

    def __init__(self, config, dataset) -> None:
        state = RunState(Identity(), 0, "test")
        self.trainer = NFTOfflineTrainer(config, dataset, None, state, None, Interruption())
        self.trainer.log = RunLog({}, total_steps=0, first_step=0, active=False, headline=str, run_id="test")
        self.trainer._before_first_step()
        self.client = self.trainer.training_client
        self.trainer.engine.optimizer.register_step_pre_hook(lambda *_: self._catch())

    def _catch(self) -> None:
        named = self.trainer.engine.module.named_parameters()
        self.gradients = {name: full(p.grad).clone() for name, p in named if p.grad is not None}

    def ours(self, **objective) -> dict[str, torch.Tensor]:
        """One step of the offline trainer, with another objective."""
        for name, value in objective.items():
            self.trainer.config.objective[name] = value
        self.client.set_loss_fn(self.trainer._loss_function())
        data = self.trainer._train_batch(0)
        tu.assign_non_tensor(data, global_token_num=NonTensorData([]))
        self.client.train_batch(data)
        return self.gradients

    def verls(self, dataset, advantages: list[float], loss) -> dict[str, torch.Tensor]:
        """`update_actor` of verl's actor worker, which is this, with a policy loss of verl's registry."""
        rows = self.trainer._rows_of_step(0)
        dp_size, dp_rank = self.trainer.engine.get_data_parallel_size(), self.trainer.engine.get_data_parallel_rank()
        share = slice(len(rows) // dp_size * dp_rank, len(rows) // dp_size * (dp_rank + 1))
        config = self.trainer.config
        data = actor_batch(
            [dataset.row(row) for row in rows[share]],
            advantages[share],
            mini_batch_size=len(rows),
            global_batch_size=len(rows),
            epochs=1,
            seed=0,
            dataloader_kwargs={"shuffle": False},
            temperature=config.data.temperature,
            use_dynamic_bsz=config.data.use_dynamic_bsz,
            max_token_len_per_gpu=config.data.max_token_len_per_gpu,
            # verl takes no micro-batch that is larger than a rank's share
            micro_batch_size_per_gpu=min(config.data.micro_batch_size_per_gpu, len(rows) // dp_size),
        )
        self.client.set_loss_fn(loss)
        self.client.train_mini_batch(data)
        return self.gradients


def nft_advantages(groups: list[list[bool]]) -> list[float]:
    """What the estimator `nft` gives."""
    return [a for group in groups for a in grpo_advantages(group, by_std=False)]


def online_loss(objective: dict):
    """The policy loss with the offline trainer's objective, whose reductions have verl's names online."""
    reduction = objective.get("reduction", "token_mean")
    mode = {"token_mean": "token-mean", "response_mean": "seq-mean-token-mean"}[reduction]
    return nft_loss(mode, **{name: value for name, value in objective.items() if name != "reduction"})


def full(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def reference(workspace: Path, dataset, temperature: float, objective: dict) -> dict[str, torch.Tensor]:
    """Gradients of Eq. 10 by plain transformers, a response at a time; old log-probs are those of the data set."""
    model = AutoModelForCausalLM.from_pretrained(workspace / "model", attn_implementation="sdpa", dtype=torch.float32)
    of_responses = []
    for row in (dataset.row(row) for row in range(dataset.num_rows)):
        learned = row["loss_mask"][1:].bool()
        log_probs = (model(input_ids=row["input_ids"][None]).logits[0, :-1] / temperature).log_softmax(-1)
        log_probs = log_probs.gather(-1, row["input_ids"][1:, None])[:, 0][learned]
        log_ratio = log_probs - row["old_log_probs"][1:][learned]
        how = objective.get("ratio", "token")
        if how != "token":
            log_ratio = (log_ratio.sum() if how == "sequence" else log_ratio.mean()).expand_as(log_ratio)
        ratio, r = log_ratio.exp(), row["correct_rate"].item()
        weight = {"uniform": 1, "dr_grpo": 1 - r, "grpo": ((1 - r) / r) ** 0.5}[
            objective.get("prompt_weight", "dr_grpo")
        ]
        if row["correct"]:
            x, least = ratio, objective.get("positive_floor", 0.0)
        else:
            x, least = (1 - r * ratio) / (1 - r), objective.get("eps", 1.0)
            weight *= objective.get("neg_weight", 1.0)
        held = x + (x.clamp(min=least) - x).detach()
        of_responses.append(-weight * held.log())
    if objective.get("reduction", "token_mean") == "token_mean":
        loss = torch.cat(of_responses).mean()
    else:
        loss = torch.stack([losses.mean() for losses in of_responses]).mean()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def compared(mode: dict, what: str, online: bool, found: dict, expected: dict) -> dict:
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    error = max((found[name] - expected[name]).abs().max().item() for name in expected)
    scale = max(g.abs().max().item() for g in expected.values())
    return {"mode": mode, "what": what, "online": online, "error": error, "scale": scale}


def modes(world_size: int):
    """Plain heads first: verl patches the model class for a fused head, for the rest of the process."""
    for fused, sp, packed, micro in itertools.product((False, True), (1, 2), (True, False), (1, 2, 8, "dynamic")):
        if sp <= world_size and (sp == 1 or packed) and not (fused and micro != "dynamic"):
            for share in (False, True) if packed else (False,):
                yield {"fused": fused, "sp": sp, "packed": packed, "micro": micro, "share": share}


def objectives_of(number: int, objectives: list[dict], count: int) -> list[dict]:
    """`count` of them for the mode of this number, in turn and so that neighbours do not always come together.

    Every objective meets every value of every setting, not every mode; the test looks whether it does.
    """
    turn, step = number + number // 2, 1 + number // 3 % (len(objectives) - 1)
    return [objectives[(turn + i * step) % len(objectives)] for i in range(count)]


def options_of(mode: dict) -> dict:
    dynamic = mode["micro"] == "dynamic"
    return {
        "data.use_dynamic_bsz": dynamic,
        "data.micro_batch_size_per_gpu": 2 if dynamic else mode["micro"],
        "engine.ulysses_sequence_parallel_size": mode["sp"],
        "model.use_remove_padding": mode["packed"],
        "model.use_fused_kernels": mode["fused"],
        "trainer.share_prompts": mode.get("share", False),
    }


def trainer_of(config: DictConfig, world_size: int, device: str, options: dict):
    config = copy.deepcopy(config)
    for key, value in options.items():
        OmegaConf.update(config, key, value)
    check_config(config, world_size=world_size)
    check_device(config, device)
    complete_config(config, device)
    dataset, _ = load_datasets(config)
    return Update(config, dataset), dataset


def main(workspace: Path) -> None:
    world_size = int(os.environ["WORLD_SIZE"])
    even, uneven = (compose(workspace, f"{name}.jsonl", {}) for name in ("even", "uneven"))
    device = choose_device(even)
    results, references = [], {}
    defaults = dict(uneven.objective)
    with join_ranks(device):
        for number, mode in enumerate(modes(world_size)):
            options = options_of(mode) | {"data.train_batch_size": 2}
            update, dataset = trainer_of(even, world_size, device, options)
            groups = [[dataset.correct_of(row) for row in dataset.rows_of(group)] for group in range(2)]
            for objective in objectives_of(number, ON_POLICY, 1):
                by_std = objective["prompt_weight"] == "grpo"
                advantages = [a for group in groups for a in grpo_advantages(group, by_std=by_std)]
                expected = update.verls(dataset, advantages, grpo_loss())
                what, found = f"on-policy {objective['prompt_weight']}", update.ours(**objective)
                results.append(compared(mode, what, False, found, expected))
                found = update.verls(dataset, nft_advantages(groups), nft_loss(**objective))
                results.append(compared(mode, what, True, found, expected))

            options |= {"data.train_batch_size": 3, "data.temperature": 0.7}
            update, dataset = trainer_of(uneven, world_size, device, options)
            groups = [[dataset.correct_of(row) for row in dataset.rows_of(group)] for group in range(3)]
            for objective in objectives_of(number, OFF_POLICY, 2):
                what = f"off-policy {objective}"
                if what not in references:
                    references[what] = reference(workspace, dataset, 0.7, objective)
                found = update.ours(**(defaults | objective))
                results.append(compared(mode, what, False, found, references[what]))
                found = update.verls(dataset, nft_advantages(groups), online_loss(objective))
                results.append(compared(mode, what, True, found, references[what]))
        if dist.get_rank() == 0:
            (workspace / f"nft_result_{world_size}.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
