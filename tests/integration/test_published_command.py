"""The command of the DFT repository's README runs as it stands, but for the module and the paths."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from transformers import AutoModelForCausalLM

from tests.conftest import arithmetic_rows, write_parquet
from tests.support.launch import TRAINER, metrics

# As published, with its stray blank after `train_batch_size=256 \` taken out by {blank}.
COMMAND = """{torchrun} --standalone --nnodes=1 --nproc_per_node=2 -m {module} \\
        data.train_files={train} \\
        data.val_files={val} \\
        data.prompt_key=extra_info \\
        data.response_key=extra_info \\
        data.train_batch_size=256 \\{blank}
        optim.lr=5e-5 \\
        +data.prompt_dict_keys=['question'] \\
        +data.response_dict_keys=['answer'] \\
        data.micro_batch_size_per_gpu=4 \\
        data.max_length=2048 \\
        model.partial_pretrain={model} \\
        model.use_liger={liger} \\
        model.fsdp_config.model_dtype=bf16 \\
        trainer.default_local_dir={run} \\
        trainer.project_name=numina-cot \\
        trainer.experiment_name=numina-cot-dft \\
        trainer.logger=['console','tensorboard'] \\
        trainer.default_hdfs_dir=null \\
        trainer.test_freq=10 \\
        trainer.save_freq=50 \\
        trainer.total_epochs=1 \\
        ulysses_sequence_parallel_size=1 \\
        use_remove_padding=true
"""


@pytest.fixture
def bash(model_folder, tmp_path):
    """Run the command in a shell, which also does the unquoting that a user's shell would do."""
    train = write_parquet(tmp_path / "train.parquet", arithmetic_rows(560))
    val = write_parquet(tmp_path / "val.parquet", arithmetic_rows(9, seed=2))

    def run(**options) -> subprocess.CompletedProcess:
        values = {"liger": "False", "blank": "", "run": tmp_path / "run", "model": model_folder, **options}
        script = COMMAND.format(
            torchrun=f"{sys.executable} -m torch.distributed.run", module=TRAINER, train=train, val=val, **values
        )
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            ["bash", "-c", script], check=False, capture_output=True, text=True, timeout=280, env=environment
        )

    return run


@pytest.mark.slow
def test_the_published_command_trains(bash, tmp_path):
    """Liger is the one thing that a processor lacks: see the next test."""
    ended = bash()
    assert ended.returncode == 0, ended.stderr
    logged = metrics(tmp_path / "run")
    assert [entry["step"] for entry in logged] == [1, 2, 2]  # two batches of 256, and the last validation
    assert 0 < logged[0]["train/loss"] < logged[0]["train/cross_entropy"]
    for old, new in {
        "model.partial_pretrain": "model.path",
        "model.fsdp_config.model_dtype": "engine.model_dtype",
        "ulysses_sequence_parallel_size": "engine.ulysses_sequence_parallel_size",
        "use_remove_padding": "model.use_remove_padding",
    }.items():
        assert f"{old} is now {new}\n" in ended.stderr
    saved = tmp_path / "run" / "global_step_2" / "huggingface"
    assert AutoModelForCausalLM.from_pretrained(saved).num_parameters() > 0
    assert json.loads((saved / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


@pytest.mark.slow
def test_the_published_command_as_it_stands_names_what_this_machine_lacks(bash, monkeypatch):
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    ended = bash(liger="True")
    assert ended.returncode != 0
    assert "error: model.use_liger: got True, expected False: Liger's kernels are Triton and need a GPU" in ended.stderr


@pytest.mark.slow
def test_the_stray_blank_in_the_published_command_is_explained(bash):
    ended = bash(blank=" ")
    assert ended.returncode != 0
    assert "'data.train_batch_size=256' ends in a backslash followed by a blank" in ended.stderr
