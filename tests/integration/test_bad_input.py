"""A mistake in the input ends in one line that names it and exit code 2, before any model is loaded."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import arithmetic_rows, write_parquet
from tests.support.launch import command, trainer_arguments
from tests.support.tiny_model import save_tiny_model
from verl_ext.trainer.fsdp_dft_trainer import main


@pytest.fixture
def error_of(model_folder, train_file, tmp_path, capsys, monkeypatch):
    """Run the trainer's door in this process with some overrides; returns its one error line."""
    for name in ("VERL_PLATFORM", "VERL_ENGINE_VENDOR", "NCCL_DEBUG", "TOKENIZERS_PARALLELISM", "VERL_LOGGING_LEVEL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    def run(*overrides: str, model: Path = model_folder, data: Path = train_file, world_size: int = 1) -> str:
        monkeypatch.setenv("WORLD_SIZE", str(world_size))
        with pytest.raises(SystemExit) as ended:
            main(trainer_arguments(model, data, tmp_path / "run", *overrides))
        assert ended.value.code == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert not (tmp_path / "run").exists()
        return lines[0].removeprefix("error: ")

    return run


@pytest.mark.parametrize(
    ("overrides", "world_size", "message"),
    [
        (["optim.lrr=1"], 1, "unknown key optim.lrr; did you mean optim.lr?"),
        (["data.train_batch_size=9"], 2, "data.train_batch_size: got 9, expected a multiple of 2"),
        (["data.micro_batch_size_per_gpu=3"], 1, "data.micro_batch_size_per_gpu: got 3, expected a divisor of 8"),
        (["data.micro_batch_size_per_gpu=8"], 2, "data.micro_batch_size_per_gpu: got 8, expected at most 4"),
        (["data.train_batch_size=64"], 1, "data.train_batch_size: got 64, expected at most 48"),
        (["data.train_batch_size=many"], 1, "data.train_batch_size: got 'many', expected a positive whole number"),
        (["data.max_length=1"], 1, "data.max_length: got 1, expected at least 2 tokens"),
        (["data.truncation=middle"], 1, "data.truncation: got 'middle', expected right, left, drop or error"),
        (["engine.ulysses_sequence_parallel_size=2"], 3, "expected a divisor of the 3 ranks"),
        (["engine.ulysses_sequence_parallel_size=8"], 8, "expected one of [1, 2, 4] for 4 attention heads"),
        (
            ["engine.ulysses_sequence_parallel_size=2", "model.use_remove_padding=False"],
            2,
            "model.use_remove_padding: got False, expected True with sequence parallelism",
        ),
        (
            ["engine.ulysses_sequence_parallel_size=2", "model.override_config.attn_implementation=sdpa"],
            2,
            "model.override_config.attn_implementation: got 'sdpa', expected verl_ext_varlen",
        ),
        (
            ["data.use_dynamic_bsz=True", "data.max_token_len_per_gpu=100"],
            1,
            "data.max_token_len_per_gpu: got 100, expected at least 2048",
        ),
        (
            ["data.use_dynamic_bsz=True", "objective.reduction=published"],
            1,
            "data.use_dynamic_bsz: got True, expected False with objective.reduction=published",
        ),
        (["objective.name=dtf"], 1, "objective.name: got 'dtf', expected one of asft, dft, eaft, "),
        (["objective.alpha=2"], 1, "unknown key objective.alpha"),
        (
            ["objective.name=power", "objective.alpah=2"],
            1,
            "unknown key objective.alpah; did you mean objective.alpha?",
        ),
        (["objective.name=power", "objective.alpha=-1"], 1, "objective.alpha: got -1.0, expected 0 or more"),
        (["objective.name=power", "objective.alpha=much"], 1, "objective.alpha: got 'much', expected a number"),
        (["objective.name=psft", "objective.steps=2.5"], 1, "objective.steps: got 2.5, expected a whole number"),
        (
            ["objective.name=asft", "objective.direction=up"],
            1,
            "objective.direction: got 'up', expected forward or reverse",
        ),
        (["model.external_lib=no_such_module"], 1, "model.external_lib: no module 'no_such_module'"),
        (
            ["objective.name=asft", "model.use_fused_kernels=True"],
            1,
            "model.use_fused_kernels: got True, expected False with objective.name=asft",
        ),
        (["data.weights_key=w"], 1, "data.weights_key: no column 'w' in "),
        (["data.train_mask_key=m"], 1, "data.train_mask_key: got 'm', expected null with data.prompt_key"),
        (["objective.reduction=sum"], 1, "objective.reduction: got 'sum', expected token_mean or published"),
        (["trainer.logger=[tensorbord]"], 1, "trainer.logger: got 'tensorbord', expected some of console"),
        (["trainer.save_freq=0"], 1, "trainer.save_freq: got 0, expected a number of steps"),
        (["data.custom_cls.path=x.py"], 1, "data.custom_cls.path: not supported here"),
        (["data.pad_mode=right"], 1, "data.pad_mode: not supported here"),
        (["checkpoint.save_contents=[model]"], 1, "checkpoint.save_contents: got ['model'], expected extra, optimizer"),
        (["data.val_files=nowhere.parquet"], 1, "data.val_files: nowhere.parquet not found"),
        (["data.train_files=nowhere.parquet"], 1, "data.train_files: nowhere.parquet not found"),
        (["data.train_files=[]"], 1, "data.train_files: no file given"),
        (["data.prompt_key=problem"], 1, "data.prompt_key: no column 'problem' in "),
        (
            ["data.response_dict_keys=[solution]"],
            1,
            "data.response_dict_keys: no key 'solution' in column 'extra_info' of ",
        ),
        (["data.response_key=null"], 1, "data.response_key: got None, expected a column"),
        (["data.prompt_key=null", "data.response_key=null"], 1, "data.messages_key: no column 'messages' in "),
        (["data.chat_template_file=missing.jinja"], 1, "data.chat_template_file: missing.jinja not found"),
        (["trainer.resume_mode=resume_path"], 1, "trainer.resume_from_path: not set"),
        (["data.max_length=8"], 1, "lost their whole response at data.max_length=8"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_configuration_that_cannot_work_is_named(error_of, overrides, world_size, message):
    assert message in error_of(*overrides, world_size=world_size)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.use_liger=True"], "model.use_liger: got True, expected False: Liger's kernels are Triton"),
        (["model.enable_activation_offload=True"], "model.enable_activation_offload: got True, expected False"),
        (
            ["model.use_fused_kernels=True", "model.fused_kernel_options.impl_backend=triton"],
            "model.fused_kernel_options.impl_backend: got 'triton', expected torch",
        ),
        (
            ["model.override_config.attn_implementation=flash_attention_2"],
            "model.override_config.attn_implementation: got 'flash_attention_2', expected verl_ext_varlen",
        ),
        (["trainer.device=cuda"], "trainer.device: got 'cuda', expected cpu"),
    ],
)
def test_what_a_processor_cannot_do_is_refused_by_name(error_of, monkeypatch, overrides, message):
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    assert message in error_of(*overrides)


def test_the_columns_that_exist_are_listed(error_of):
    error = error_of("data.prompt_key=problem")
    assert error.endswith("(it has: data_source, extra_info, prompt, reward_model)")
    error = error_of("data.prompt_dict_keys=[problem]")
    assert error.endswith("(it has: answer, index, question, split)")


def damaged(rows: list[dict], row: int, answer) -> list[dict]:
    rows[row]["extra_info"]["answer"] = answer
    return rows


def test_a_null_names_its_row(error_of, tmp_path):
    path = write_parquet(tmp_path / "null.parquet", damaged(arithmetic_rows(9), 5, None))
    assert f"{path}: row 5: column 'extra_info' holds null where text was expected" == error_of(data=path)


def test_a_number_instead_of_text_names_its_row(error_of, tmp_path):
    path = tmp_path / "number.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in damaged(arithmetic_rows(9), 3, 17)))
    assert f"{path}: row 3: column 'extra_info' holds int where text was expected" == error_of(data=path)


def test_bytes_that_are_not_utf8_name_their_row(error_of, tmp_path):
    path = tmp_path / "latin.jsonl"
    lines = [json.dumps(row).encode() for row in arithmetic_rows(9)]
    lines[2] = lines[2].replace(b"numbers", b"num\xe9ros")
    path.write_bytes(b"\n".join(lines))
    assert f"{path}: row 2: text is not UTF-8" == error_of(data=path)


def test_bytes_in_parquet_that_are_not_utf8_name_their_row(error_of, tmp_path):
    path = tmp_path / "latin.parquet"
    texts = pa.array([b"fine", b"fine", b"caf\xe9"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"question": texts, "answer": texts}), path)
    overrides = ["data.prompt_key=question", "data.response_key=answer"]
    overrides += ["data.prompt_dict_keys=[]", "data.response_dict_keys=[]"]
    assert f"{path}: row 2: text is not UTF-8" == error_of(*overrides, data=path)


def test_a_line_that_is_not_json_names_its_row(error_of, tmp_path):
    path = tmp_path / "broken.jsonl"
    lines = [json.dumps(row) for row in arithmetic_rows(4)]
    path.write_text("\n".join([*lines[:2], lines[2][:40], lines[3]]))
    assert f"{path}: row 2: not JSON" in error_of(data=path)


def test_a_truncated_parquet_file_is_named(error_of, tmp_path, train_file):
    path = tmp_path / "cut.parquet"
    path.write_bytes(train_file.read_bytes()[:-100])
    assert f"{path}: not a readable parquet file" in error_of(data=path)


def test_an_empty_file_is_named(error_of, tmp_path):
    path = tmp_path / "empty.jsonl"
    path.write_text("")
    assert f"data.train_files: no rows in {path}" == error_of(data=path)
    parquet = tmp_path / "empty.parquet"
    pq.write_table(pq.read_table(write_parquet(tmp_path / "one.parquet", arithmetic_rows(1))).slice(0, 0), parquet)
    assert f"data.train_files: no rows in {parquet}" == error_of(data=parquet)


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("config.json", "model.path: no config.json in "),
        ("model.safetensors", "model.path: no weights in "),
        ("tokenizer.json", "model.path: no tokenizer in "),
    ],
)
def test_a_model_folder_with_a_file_missing_is_named(error_of, model_folder, tmp_path, removed, message):
    broken = tmp_path / "model"
    shutil.copytree(model_folder, broken)
    (broken / removed).unlink()
    assert message in error_of(model=broken)


def test_a_missing_model_folder_is_named(error_of):
    assert error_of(model=Path("/no/such/model")) == "model.path: folder /no/such/model not found"


def test_a_base_model_without_chat_template_needs_one(error_of, tmp_path):
    model = save_tiny_model(tmp_path / "base", chat_template=None)
    assert error_of(model=model).startswith("data.chat_template_file: not set, and the tokenizer of ")


def test_a_row_that_the_chat_template_refuses_is_named(error_of, tmp_path):
    path = tmp_path / "chats.jsonl"
    good = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
    bad = {"messages": [{"role": "user", "content": "hi"}]}
    path.write_text("\n".join(map(json.dumps, [good, good, bad])))
    overrides = ["data.prompt_key=null", "data.response_key=null"]
    assert f"{path}: row 2: no assistant message" == error_of(*overrides, data=path)


@pytest.mark.slow
def test_under_torchrun_the_line_comes_once_and_the_ranks_exit_with_2(model_folder, train_file, tmp_path):
    arguments = trainer_arguments(model_folder, train_file, tmp_path / "run", "data.train_batch_size=9")
    ended = subprocess.run(command(arguments, ranks=2), check=False, capture_output=True, text=True, timeout=300)
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert errors == ["error: data.train_batch_size: got 9, expected a multiple of 2, the data-parallel ranks"]
    assert "exitcode  : 2" in ended.stderr
    assert ended.returncode != 0


def test_without_torchrun_the_process_exits_with_2(model_folder, train_file, tmp_path):
    arguments = trainer_arguments(model_folder, train_file, tmp_path / "run", "optim.lrr=1")
    ended = subprocess.run(command(arguments, ranks=0), check=False, capture_output=True, text=True, timeout=300)
    assert (ended.returncode, ended.stderr) == (2, "error: unknown key optim.lrr; did you mean optim.lr?\n")
