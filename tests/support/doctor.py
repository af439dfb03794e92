"""Launches for the doctor: arguments in which nothing is wrong, and data in the columns that the trainers read."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import arithmetic_rows, write_parquet
from verl_ext.doctor.examination import LaunchReport, Options
from verl_ext.doctor.examine import examine
from verl_ext.doctor.findings import Finding
from verl_ext.doctor.launch import of_keys
from verl_ext.doctor.memory import GIB

MUCH_DISK = Options(disk_free=1e6 * GIB)


def graded_rows(count: int) -> list[dict]:
    """Rows for online training: prompts with an answer that the grader can check."""
    return [row | {"data_source": "math", "ability": "math"} for row in arithmetic_rows(count)]


def rollout_rows(count: int, *, correct: tuple[int, ...] = (1, 0, 1, 0)) -> list[dict]:
    """Graded generations: a prompt with right and wrong answers."""
    return [
        {"prompt": f"{i} + {i}?", "responses": [f"It is {2 * i + 1 - c}." for c in correct], "correct": list(correct)}
        for i in range(count)
    ]


def write_json_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class GoodLaunches:
    """A folder with a model and data, and launches of the three trainers that the doctor has nothing against."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model
        self.train = write_parquet(folder / "train.parquet", graded_rows(64))
        self.val = write_parquet(folder / "val.parquet", graded_rows(64)[60:])
        self.rollouts = write_json_lines(folder / "rollouts.jsonl", rollout_rows(64))

    def arguments(self, trainer: str) -> list[str]:
        run = f"trainer.default_local_dir={self.folder / 'run'}"
        if trainer == "nft":
            return [
                f"actor_rollout_ref.model.path={self.model}",
                f"data.train_files={self.train}",
                "data.train_batch_size=16",
                "data.max_prompt_length=100",
                "data.max_response_length=400",
                "actor_rollout_ref.actor.ppo_mini_batch_size=8",
                "trainer.n_gpus_per_node=4",
                run,
            ]
        common = [f"model.path={self.model}", "data.train_batch_size=16", "data.max_length=200", run]
        if trainer == "nft_offline":
            return [*common, f"data.rollouts={self.rollouts}", "optim.lr_warmup_steps=1"]
        return [
            *common,
            f"data.train_files={self.train}",
            "data.prompt_key=extra_info",
            "data.prompt_dict_keys=[question]",
            "data.response_key=extra_info",
            "data.response_dict_keys=[answer]",
        ]

    def examine(self, trainer: str, *more: str, options: Options = MUCH_DISK, nproc: int = 4) -> LaunchReport:
        """The report of a good launch with further arguments, `~key` leaving one out."""
        arguments = self.arguments(trainer)
        for name in (argument[1:] for argument in more if argument.startswith("~")):
            arguments = [argument for argument in arguments if not argument.startswith(f"{name}=")]
        arguments += [argument for argument in more if not argument.startswith("~")]
        online = trainer == "nft"
        launch = of_keys(
            arguments, trainer=trainer.partition("_")[0], nproc_per_node=None if online else nproc, nnodes=1
        )
        return examine(launch, options)


def found(report: LaunchReport, code: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.code == code]
