"""Every recipe's command line is one that the trainer takes: its keys exist, and later overrides win."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.launch import TRAINER
from verl_ext.trainer.overrides import compose_config

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.sh"))


@pytest.fixture
def arguments_of(tmp_path):
    """Run a recipe with a torchrun that only says what it was given."""
    torchrun = tmp_path / "torchrun"
    torchrun.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    torchrun.chmod(0o755)

    def run(recipe: Path, *extra: str) -> list[str]:
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "GPUS": "4"}
        command = ["bash", str(recipe), *extra]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.splitlines()

    return run


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_recipe_starts_the_trainer_with_keys_that_exist(recipe, arguments_of):
    arguments = arguments_of(recipe, "objective.name=sft")
    module = arguments.index("-m")
    assert arguments[:module] == ["--standalone", "--nproc_per_node=4"]
    assert arguments[module + 1] == TRAINER
    config = compose_config("dft_trainer", arguments[module + 2 :])
    assert config.objective.name == "sft"
    assert config.data.train_files.endswith("train.parquet")


def test_there_are_recipes():
    assert RECIPES
