"""verl's actor in this process, without Ray: what an online run updates, with data of any shape."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from tensordict import TensorDict
from tensordict.tensorclass import NonTensorData
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.utils.losses import ppo_loss

from verl_ext.objectives.nft_advantage import encode_advantage
from verl_ext.trainer.online.checks import check_config, check_device
from verl_ext.trainer.online.defaults import complete_config
from verl_ext.trainer.online.vocabulary import NFT_VOCABULARY
from verl_ext.trainer.run.command_line import compose_config
from verl_ext.trainer.run.launch import choose_device
from verl_ext.trainer.run.quiet import prints_to_debug_log

LONGEST = 1 << 15
UNREAD = "unread.parquet"
"""The configuration asks for a file of prompts, which an actor never opens."""


@dataclass(frozen=True)
class Answers:
    """Shape of a batch of graded answers.

    Args:
        prompts: groups.
        group_size: answers of each, half of them right.
        prompt_length: tokens.
        response_lengths: tokens of each answer, of prompts * group_size of them.
    """

    prompts: int
    group_size: int
    prompt_length: int
    response_lengths: Sequence[int]

    @property
    def count(self) -> int:
        return self.prompts * self.group_size

    @property
    def tokens(self) -> int:
        return self.count * self.prompt_length + sum(self.response_lengths)

    @property
    def tokens_if_shared(self) -> int:
        """Those to compute where a group's prompt goes through the model once; each answer takes its last token along."""
        return self.prompts * self.prompt_length + self.count - self.prompts + sum(self.response_lengths)


def mixed_lengths(count: int, shortest: int, longest: int, seed: int = 0) -> list[int]:
    """Lengths drawn evenly from a range, the same for the same seed."""
    numbers = random.Random(seed)
    return [numbers.randint(shortest, longest) for _ in range(count)]


def actor_config(model: str, objective: str, device: str | None = None, *overrides: str):
    """The composed configuration of an online run with this objective."""
    chosen = [] if device is None else [f"trainer.device={device}"]
    config = compose_config(
        "nft_trainer",
        [
            f"objective={objective}",
            f"actor_rollout_ref.model.path={model}",
            f"data.train_files={UNREAD}",
            f"data.max_prompt_length={LONGEST // 2}",
            f"data.max_response_length={LONGEST // 2}",
            f"actor_rollout_ref.actor.ppo_max_token_len_per_gpu={LONGEST}",
            "actor_rollout_ref.actor.optim.lr=1e-6",
            "actor_rollout_ref.actor.optim.lr_warmup_steps=0",
            *chosen,
            *overrides,
        ],
        NFT_VOCABULARY,
    )
    check_config(config, joins_cluster=False)
    device = choose_device(config)
    check_device(config, device)
    complete_config(config, device)
    return config


class Actor:
    """verl's actor worker. Call within `verl_ext.trainer.run.launch.join_ranks`.

    Args:
        config: of `actor_config`.
    """

    def __init__(self, config) -> None:
        from verl_ext.trainer.online.workers import OnlineWorker

        with prints_to_debug_log():
            self.worker = OnlineWorker(config=config.actor_rollout_ref, role="actor")
            self.worker.init_model()
        self.vocab_size = self.worker.actor.engine.model_config.hf_config.vocab_size

    def share_prompts(self, share: bool) -> None:
        """Whether a prompt goes through the model once for its answers from now on."""
        self.worker.actor.engine.share_prompts = share

    def use_loss_of(self, config) -> None:
        """Update with the objective of another configuration from now on."""
        self.worker.actor.set_loss_fn(loss_of(config))


def loss_of(config) -> Callable:
    """verl's loss function of the actor under this configuration."""
    return partial(ppo_loss, config=omega_conf_to_dataclass(config.actor_rollout_ref.actor))


def graded_batch(answers: Answers, vocab_size: int, *, max_tokens: int, ranks: int = 1, seed: int = 0) -> TensorDict:
    """Random answers as `update_actor` gets them, with the advantages of NFT (which are Dr. GRPO's).

    Args:
        answers: their shape.
        vocab_size: token ids are below.
        max_tokens: of a micro-batch.
        ranks: that update together; each gets a batch of its own.
    """
    numbers = torch.Generator().manual_seed(seed)

    def jagged(parts: list[torch.Tensor]) -> torch.Tensor:
        return torch.nested.as_nested_tensor(parts, layout=torch.jagged)

    def tokens(length: int) -> torch.Tensor:
        return torch.randint(3, vocab_size, (length,), generator=numbers)

    correct = torch.tensor([float(i % 2 == 0) for i in range(answers.count)])
    rate = correct.view(answers.prompts, -1).mean(1).repeat_interleave(answers.group_size)
    advantages = encode_advantage(correct, rate.double())
    of_groups = [tokens(answers.prompt_length) for _ in range(answers.prompts)]
    prompts = [prompt for prompt in of_groups for _ in range(answers.group_size)]
    responses = [tokens(length) for length in answers.response_lengths]
    tensors = {
        "prompts": jagged(prompts),
        "responses": jagged(responses),
        "input_ids": jagged([torch.cat(pair) for pair in zip(prompts, responses, strict=True)]),
        "position_ids": jagged([torch.arange(answers.prompt_length + len(ids)) for ids in responses]),
        "loss_mask": jagged(
            [torch.cat([torch.zeros_like(p), torch.ones_like(r)]) for p, r in zip(prompts, responses, strict=True)]
        ),
        "response_mask": jagged([torch.ones_like(ids) for ids in responses]),
        # of a model that knows nothing about these tokens, give or take: ratios near 1
        "old_log_probs": jagged(
            [torch.randn(len(ids), generator=numbers) * 0.1 - torch.tensor(vocab_size).log() for ids in responses]
        ),
        "advantages": jagged([torch.full((len(ids),), float(a)) for ids, a in zip(responses, advantages, strict=True)]),
    }
    settings = {
        "global_batch_size": answers.count * ranks,
        "mini_batch_size": answers.count * ranks,
        "epochs": 1,
        "seed": 0,
        "dataloader_kwargs": {"shuffle": False},
        "temperature": 1.0,
        "calculate_entropy": False,
        "use_dynamic_bsz": True,
        "max_token_len_per_gpu": max_tokens,
        "global_token_num": NonTensorData([answers.prompt_length + length for length in answers.response_lengths]),
    }
    return tu.get_tensordict(tensor_dict=tensors, non_tensor_dict=settings)


def model_name(path: str) -> str:
    """Of a folder or hub id, for a title."""
    return Path(path).absolute().name if Path(path).is_dir() else path
