"""Every recipe, as it stands but for what TINY=1 says, trains two steps on a processor."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.online import ray_folder
from tests.support.recipes import OFFLINE, ONLINE, RECIPES, SUPERVISED, commands, start_recipe

pytestmark = pytest.mark.timeout(900)  # a minute each with the machine to oneself

ARCHITECTURES = {
    "dft/qwen2.5-math": "Qwen2ForCausalLM",
    "dft/llama": "LlamaForCausalLM",
    "dft/deepseekmath": "LlamaForCausalLM",
    "nft/": "Qwen2ForCausalLM",
    "qed_nano/": "Qwen3ForCausalLM",
}
ALIKE = {
    "dft/llama-3.2-3b.sh": ("dft/llama-3.1-8b.sh", set()),
    "dft/qwen2.5-math-7b.sh": ("dft/qwen2.5-math-1.5b.sh", set()),
    "nft/qwen2.5-math-7b.sh": ("nft/qwen2.5-32b.sh", {"reward.reward_kwargs.overlong_buffer_cfg.enable"}),
}
"""Recipe -> the one that is run in its place, since it sets the same keys, and the keys that only the recipe sets.

A run takes half a minute, an online one more than a minute. What each recipe makes of the command line is in
tests/unit/test_recipes.py."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tiny")


def train(recipe: str, folder: Path, *arguments: str, **environment: str) -> tuple[str, list[dict], dict]:
    """Run a recipe; returns its output, the metrics of its training steps and the configuration of its model."""
    python = Path(sys.executable).parent
    ended = start_recipe(
        recipe,
        *arguments,
        **{"TINY": "1", "TINY_DIR": str(folder), "PATH": f"{python}:{os.environ['PATH']}", **environment},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    name = re.search(r"^TINY=1: 2 steps of (\S+) on the CPU", ended.stderr, re.MULTILINE)[1]
    run = folder / name / "run"
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return ended.stdout, entries, json.loads((run / "global_step_2" / "huggingface" / "config.json").read_text())


def values(entries: list[dict], *names: str) -> Iterator[float]:
    for entry in entries:
        yield from (entry[name] for name in names if name in entry)


def architecture_of(recipe: str) -> list[str]:
    return [next(name for prefix, name in ARCHITECTURES.items() if recipe.startswith(prefix))]


def test_every_recipe_is_run_here_or_one_like_it():
    assert {*SUPERVISED, OFFLINE, *ONLINE} == set(RECIPES)
    for recipe, (stand_in, own) in ALIKE.items():
        assert stand_in not in ALIKE
        assert keys_of(recipe) - keys_of(stand_in) == own, recipe


def keys_of(recipe: str) -> set[str]:
    """Every module that a recipe starts and every key that it sets."""
    words = {word for command in commands(recipe, TINY="1", TINY_DIR="/nowhere") for word in command}
    return {word.partition("=")[0] for word in words if word.startswith("verl_ext.") or "=" in word}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [recipe for recipe in SUPERVISED if recipe not in ALIKE])
def test_a_supervised_recipe_trains(recipe, folder):
    output, entries, config = train(recipe, folder)
    gradients = list(values(entries, "train/grad_norm"))
    assert len(gradients) == 2 and all(0 < gradient < math.inf for gradient in gradients)
    assert config["architectures"] == architecture_of(recipe)
    assert "0 shortened" in output and "0 dropped" in output


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["dft", "nft"])
def test_offline_rl_samples_grades_and_trains(objective, folder):
    output, entries, config = train(OFFLINE, folder, OBJECTIVE=objective)
    gradients = list(values(entries, "train/grad_norm"))
    assert len(gradients) == 2 and all(0 < gradient < math.inf for gradient in gradients)
    assert config["architectures"] == architecture_of(OFFLINE)
    assert "48 of 48 problems" in output and "with 192 answers" in output


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [recipe for recipe in ONLINE if recipe not in ALIKE])
def test_an_online_recipe_generates_grades_and_trains(recipe, folder):
    with ray_folder() as ray:
        # NFT itself is run in many other tests
        _, entries, config = train(recipe, folder, f"ray_kwargs.ray_init._temp_dir={ray}", OBJECTIVE="dr_grpo")
    assert config["architectures"] == architecture_of(recipe)
    gradients = list(values(entries, "actor/grad_norm"))
    assert len(gradients) == 2 and all(0 < gradient < math.inf for gradient in gradients)
    assert all(0 < share < 1 for share in values(entries, "reward/acc"))
    assert len(list(values(entries, "val/aime24/avg@1"))) == 1
