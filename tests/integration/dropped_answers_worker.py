"""Run by torchrun: gradients of an update from which answers were dropped or masked, and of one that never had them.

Usage: dropped_answers_worker.py WORKSPACE; writes WORKSPACE/dropped.json, a list of {objective, mode, error,
masked_error, scale}: the largest difference between two gradients, and the largest entry of the expected one.

Two groups of eight, of which four answers are dropped; the online trainer's worker gets the other twelve and verl's
fillers in their place, unevenly on two ranks. Expected is what verl's own worker makes of the twelve alone. Then it gets
all sixteen, the four with their tokens and advantages but without a mask, as truncated answers are; and at last a
mini-batch of such answers alone, which must be no step of the optimizer.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from verl.utils import tensordict_utils as tu

from tests.integration.nft_gradient_worker import compose, full, options_of, trainer_of
from tests.support.actor_batch import actor_batch, filler, grpo_advantages, grpo_loss, nft_loss
from verl_ext.trainer.online.algorithm import compute_nft_advantage
from verl_ext.trainer.online.workers import OnlineTrainingWorker
from verl_ext.trainer.run.launch import choose_device, join_ranks

DROPPED = (2, 7, 8, 13)
MODES = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm")


class Updates:
    """Gradients of `update_actor`, caught where the optimizer steps (its learning rate is 0)."""

    def __init__(self, worker) -> None:
        self.worker = worker
        worker.engine.optimizer.register_step_pre_hook(lambda *_: self._catch())

    def _catch(self) -> None:
        named = self.worker.engine.module.named_parameters()
        self.caught = {name: full(p.grad).clone() for name, p in named if p.grad is not None}

    def gradients(self, rows, advantages, loss, mini_batch_size: int) -> dict[str, torch.Tensor]:
        """Of one optimizer step; `rows` are those of this rank."""
        data = actor_batch(
            rows,
            advantages,
            mini_batch_size=mini_batch_size,
            global_batch_size=mini_batch_size,
            epochs=1,
            seed=0,
            dataloader_kwargs={"shuffle": False},
            temperature=1.0,
            use_dynamic_bsz=False,
            micro_batch_size_per_gpu=2,
        )
        self.worker.set_loss_fn(loss)
        self.worker.train_mini_batch(data)
        return self.caught

    def steps_of_masked(self, rows, loss, mini_batch_size: int) -> bool:
        """Whether an update of answers that are all masked steps the optimizer; its metrics have the learning rate."""
        self.caught = None
        data = actor_batch(
            [masked(row) for row in rows],
            [0.5] * len(rows),
            mini_batch_size=mini_batch_size,
            epochs=1,
            dataloader_kwargs={"shuffle": False},
        )
        self.worker.set_loss_fn(loss)
        output = self.worker.train_mini_batch(data)
        assert output is None or "lr" in tu.get(output, "metrics")
        return self.caught is not None


def masked(row: dict) -> dict:
    """An answer with all its tokens, of which none is learned."""
    return {**row, "response": row["loss_mask"].bool(), "loss_mask": torch.zeros_like(row["loss_mask"])}


def nft_advantages(correct: list[bool], groups: list[int], fillers: int) -> list[float]:
    """By the estimator `nft`, from the rewards of all rows, fillers included."""
    mask = torch.tensor([[1.0]] * len(correct) + [[0.0]] * fillers)
    rewards = torch.tensor([[float(c)] for c in correct] + [[0.0]] * fillers)
    index = np.array([*map(str, groups), *["pad"] * fillers], dtype=object)
    return compute_nft_advantage(rewards, mask, index)[0][:, 0].tolist()


def grpo_advantages_of(correct: list[bool], groups: list[int], *, by_std: bool) -> list[float]:
    split = [[c for c, g in zip(correct, groups, strict=True) if g == group] for group in (0, 1)]
    return [a for group in split for a in grpo_advantages(group, by_std=by_std)]


def main(workspace: Path) -> None:
    config = compose(workspace, "even.jsonl", {})
    device = choose_device(config)
    results = []
    with join_ranks(device):
        rank = dist.get_rank()
        options = options_of({"fused": False, "sp": 1, "packed": True, "micro": 2}) | {"data.train_batch_size": 2}
        update, dataset = trainer_of(config, dist.get_world_size(), device, options)
        expected = Updates(update.client)
        online = OnlineTrainingWorker(update.client.config)
        online.reset()
        found = Updates(online)
        left = [row for row in range(16) if row not in DROPPED]
        rows, groups = [dataset.row(row) for row in left], [row // 8 for row in left]
        correct = [dataset.correct_of(row) for row in left]
        with_fillers = rows[:7] + [filler()] + rows[7:] + [filler()] * 3
        for objective in ("nft", "rft", "grpo", "dr_grpo"):
            if objective in ("nft", "rft"):
                advantages = nft_advantages(correct, groups, fillers=4)[:12]
            else:
                advantages = grpo_advantages_of(correct, groups, by_std=objective == "grpo")
            spread = [*advantages[:7], 0.0, *advantages[7:], 0.0, 0.0, 0.0]
            for mode in MODES:
                scale = {"loss_scale_factor": 32} if mode == MODES[2] else {}
                if objective in ("nft", "rft"):
                    settings = {} if objective == "nft" else {"neg_weight": 0.0, "prompt_weight": "uniform"}
                    loss = nft_loss(mode, **settings, **scale)
                else:
                    loss = grpo_loss(mode, **scale)
                share = slice(6 * rank, 6 * rank + 6)
                expect = expected.gradients(rows[share], advantages[share], loss, 12)
                share = slice(8 * rank, 8 * rank + 8)
                get = found.gradients(with_fillers[share], spread[share], loss, 16)
                assert get.keys() == expect.keys()
                all_rows = [masked(dataset.row(row)) if row in DROPPED else dataset.row(row) for row in range(16)]
                all_advantages = [0.5] * 16
                for row, advantage in zip(left, advantages, strict=True):
                    all_advantages[row] = advantage
                get_masked = found.gradients(all_rows[share], all_advantages[share], loss, 16)
                error, masked_error = (
                    max((those[name] - expect[name]).abs().max().item() for name in expect)
                    for those in (get, get_masked)
                )
                largest = max(gradient.abs().max().item() for gradient in expect.values())
                errors = {"error": error, "masked_error": masked_error}
                results.append({"objective": objective, "mode": mode, **errors, "scale": largest})
        assert not found.steps_of_masked(all_rows[:4], loss, 8)
        if rank == 0:
            (workspace / "dropped.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
