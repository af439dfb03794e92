"""Offline NFT: a mistake in the input ends in one line that names it and exit code 2, before a model is loaded."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.launch import NFT_TRAINER, command, nft_arguments
from tests.support.rollouts import rollout_rows, without_signal, write_json_lines
from tests.support.tiny_model import save_tiny_model
from verl_ext.trainer.fsdp_nft_trainer import main


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory):
    return write_json_lines(tmp_path_factory.mktemp("data") / "rollouts.jsonl", rollout_rows(6))


@pytest.fixture
def error_of(model_folder, rollouts, tmp_path, capsys, monkeypatch):
    """Run the trainer's door in this process as one rank of some; returns its one error line."""
    for name in ("VERL_PLATFORM", "VERL_ENGINE_VENDOR", "NCCL_DEBUG", "TOKENIZERS_PARALLELISM", "VERL_LOGGING_LEVEL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("RANK", "0")

    def run(*overrides: str, model=model_folder, data=rollouts, world_size: int = 1) -> str:
        monkeypatch.setenv("WORLD_SIZE", str(world_size))
        with pytest.raises(SystemExit) as ended:
            main(nft_arguments(model, data, tmp_path / "run", *overrides))
        assert ended.value.code == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert not (tmp_path / "run").exists()
        return lines[0].removeprefix("error: ")

    return run


@pytest.mark.parametrize(
    ("overrides", "world_size", "message"),
    [
        (["objective.neg_wieght=0"], 1, "unknown key objective.neg_wieght; did you mean objective.neg_weight?"),
        (
            ["objective.neg_weight=-1"],
            1,
            "objective.neg_weight: got -1, expected 0 (RFT) or more; a negative one meant",
        ),
        (["actor_rollout_ref.neg_weight=-1"], 1, "objective.neg_weight: got -1.0, expected 0 (RFT) or more"),
        (["objective.neg_weight=some"], 1, "objective.neg_weight: got 'some', expected 0 or more"),
        (["objective.eps=0"], 1, "objective.eps: got 0, expected a positive number"),
        (["objective.prompt_weight=drgrpo"], 1, "objective.prompt_weight: got 'drgrpo', expected one of"),
        (["objective.ratio=sentence"], 1, "objective.ratio: got 'sentence', expected one of"),
        (["objective.reduction=sum"], 1, "objective.reduction: got 'sum', expected token_mean or response_mean or "),
        (["data.temperature=0"], 1, "data.temperature: got 0, expected a positive number"),
        (["data.temperature=hot"], 1, "data.temperature: got 'hot', expected a positive number"),
        (
            ["data.train_batch_size=7"],
            1,
            "data.train_batch_size: got 7, expected at most 6, the prompts of data.rollouts",
        ),
        (["data.max_length=40"], 1, "rollouts.jsonl: row 0: response 0: "),
        (["data.truncation=left"], 1, "data.truncation: got 'left', expected right or error"),
        (["data.correct_key=reward"], 1, "data.correct_key: no column 'reward' in "),
        (["data.val_rollouts=nowhere.jsonl"], 1, "data.val_rollouts: nowhere.jsonl not found"),
        (["data.rollouts=nowhere.jsonl"], 1, "data.rollouts: nowhere.jsonl not found"),
        (["data.rollouts=[]"], 1, "data.rollouts: no file given"),
        (
            ["data.train_files=t.parquet"],
            1,
            "data.train_files: not supported here: graded generations are data.rollouts",
        ),
        (["data.messages_key=m"], 1, "data.messages_key: not supported here: the columns of graded generations"),
        (["engine.ulysses_sequence_parallel_size=2"], 3, "expected a divisor of the 3 ranks"),
        (
            ["data.use_dynamic_bsz=True", "data.max_token_len_per_gpu=100"],
            1,
            "data.max_token_len_per_gpu: got 100, expected at least 4096",
        ),
        (["trainer.resume_mode=resume_path"], 1, "trainer.resume_from_path: not set"),
        (["model.path=/no/such/model"], 1, "model.path: folder /no/such/model not found"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_configuration_that_cannot_work_is_named(error_of, overrides, world_size, message):
    assert message in error_of(*overrides, world_size=world_size)


def test_rewards_that_are_no_grades_name_their_row(error_of, tmp_path):
    rows = rollout_rows(6)
    rows[4]["correct"] = [float(c) - 0.1 for c in rows[4]["correct"]]
    path = write_json_lines(tmp_path / "shaped.jsonl", rows)
    assert error_of(data=path).startswith(f"{path}: row 4: column 'correct': rewards must be 0 and 1, or -1 and +1; ")


def test_generations_that_teach_nothing_are_said(error_of, tmp_path):
    path = write_json_lines(tmp_path / "easy.jsonl", [without_signal(row, right=True) for row in rollout_rows(3)])
    assert "data.rollouts: none of the 3 prompts has both right and wrong responses (3 all right" in error_of(data=path)


def test_a_base_model_without_chat_template_needs_one(error_of, tmp_path):
    model = save_tiny_model(tmp_path / "base", chat_template=None)
    assert error_of(model=model).startswith("data.chat_template_file: not set, and the tokenizer of ")


@pytest.mark.slow
def test_under_torchrun_the_line_comes_once_and_the_ranks_exit_with_2(model_folder, rollouts, tmp_path):
    arguments = nft_arguments(model_folder, rollouts, tmp_path / "run")
    ended = subprocess.run(
        command([a for a in arguments if not a.startswith("data.rollouts=")], ranks=2, trainer=NFT_TRAINER),
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: data.rollouts: not set; under torchrun this trainer learns from graded")
    assert "exitcode  : 2" in ended.stderr
