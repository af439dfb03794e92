"""Each mistake that people make in a launch is found, under its code and level, with its key."""

from __future__ import annotations

import dataclasses

import pytest

from tests.conftest import write_parquet
from tests.support.doctor import MUCH_DISK, GoodLaunches, found, graded_rows, rollout_rows, write_json_lines
from tests.support.tiny_model import save_tiny_model
from verl_ext.doctor.findings import exit_code
from verl_ext.doctor.memory import GIB
from verl_ext.doctor.step_time import DEVICES

ROLLOUT = "actor_rollout_ref.rollout"
ACTOR = "actor_rollout_ref.actor"


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> GoodLaunches:
    folder = tmp_path_factory.mktemp("launches")
    return GoodLaunches(folder, save_tiny_model(folder / "model"))


@pytest.mark.parametrize("trainer", ["dft", "nft", "nft_offline"])
def test_nothing_is_said_against_a_launch_without_a_mistake(good, trainer):
    report = good.examine(trainer)
    assert [finding for finding in report.findings if finding.level != "info"] == []
    assert exit_code(report.findings) == 0
    assert report.memory


MISTAKES = [
    # trainer, arguments, code, level, key
    ("dft", ["optin.lr=1e-5"], "unknown-key", "error", "optin.lr"),
    ("dft", ["+optim.learning_rate=1e-5"], "unknown-key", "error", "optim.learning_rate"),
    ("nft", [f"{ROLLOUT}.tensor_parallel_size=2"], "unknown-key", "error", f"{ROLLOUT}.tensor_parallel_size"),
    ("dft", ["model.partial_pretrain=Qwen/Qwen2.5-Math-7B"], "renamed-key", "info", "model.partial_pretrain"),
    ("dft", ["optim.lr"], "bad-argument", "error", ""),
    ("dft", ["trainer.total_epochs=3", "trainer.total_epochs=1"], "given-twice", "info", "trainer.total_epochs"),
    ("nft", ["objective=nftt"], "bad-value", "error", "objective"),
    ("dft", ["~model.path"], "not-set", "error", "model.path"),
    ("dft", ["~data.train_files"], "not-set", "error", "data.train_files"),
    ("nft_offline", ["data.rollouts=no/such.parquet"], "data-files", "error", "data.rollouts"),
    ("dft", ["model.path=/no/such/model"], "model-files", "error", "model.path"),
    ("dft", ["data.train_files=no/such.parquet"], "data-files", "error", "data.train_files"),
    ("nft", ["data.val_files=no/such.parquet"], "data-files", "error", "data.val_files"),
    ("dft", ["data.prompt_key=problem"], "data-columns", "error", "data.prompt_key"),
    ("dft", ["data.response_dict_keys=[solution]"], "data-columns", "error", "data.response_dict_keys"),
    ("nft_offline", ["data.correct_key=score"], "data-columns", "error", "data.correct_key"),
    ("nft", ["data.prompt_key=question"], "data-columns", "error", "data.train_files"),
    ("dft", ["data.train_batch_size=18"], "bad-batch", "error", "data.train_batch_size"),
    ("dft", ["data.micro_batch_size_per_gpu=3"], "bad-batch", "error", "data.micro_batch_size_per_gpu"),
    ("dft", ["data.train_batch_size=128"], "bad-batch", "error", "data.train_batch_size"),
    ("dft", ["data.use_dynamic_bsz=True", "data.max_token_len_per_gpu=64"], "bad-batch", "error", "data.max_token_len_per_gpu"),
    ("nft", [f"{ACTOR}.ppo_mini_batch_size=5"], "bad-batch", "error", f"{ACTOR}.ppo_mini_batch_size"),
    ("nft", ["trainer.n_gpus_per_node=3"], "bad-batch", "error", f"{ACTOR}.ppo_mini_batch_size"),
    ("nft", [f"{ROLLOUT}.n=1"], "bad-batch", "error", f"{ROLLOUT}.n"),
    ("nft", [f"{ACTOR}.ppo_max_token_len_per_gpu=300"], "bad-batch", "error", f"{ACTOR}.ppo_max_token_len_per_gpu"),
    ("nft", ["data.train_batch_size=128"], "bad-batch", "error", "data.train_batch_size"),
    ("dft", ["engine.ulysses_sequence_parallel_size=3"], "sequence-parallel", "error", "engine.ulysses_sequence_parallel_size"),
    ("dft", ["engine.ulysses_sequence_parallel_size=2", "model.use_remove_padding=False"], "sequence-parallel", "error", "model.use_remove_padding"),
    ("nft", [f"{ROLLOUT}.tensor_model_parallel_size=3"], "rollout-parallel", "error", f"{ROLLOUT}.tensor_model_parallel_size"),
    ("dft", ["objective.name=dtf"], "bad-value", "error", "objective.name"),
    ("nft", ["algorithm.adv_estimator=grpo"], "bad-objective", "error", "algorithm.adv_estimator"),
    ("nft_offline", ["objective.neg_weight=-1"], "bad-objective", "error", "objective.neg_weight"),
    ("dft", ["data.max_length=60"], "row-lengths", "warning", "data.max_length"),
    ("dft", ["data.max_length=60", "data.truncation=error"], "row-lengths", "error", "data.truncation"),
    ("dft", ["data.max_length=20"], "no-loss-tokens", "error", "data.max_length"),
    ("nft", ["data.max_prompt_length=20"], "row-lengths", "error", "data.max_prompt_length"),
    ("dft", ["data.max_length=600"], "model-context", "warning", "data.max_length"),
    ("nft", ["data.max_response_length=500"], "model-context", "warning", "data.max_response_length"),
    ("nft", [f"{ROLLOUT}.max_model_len=1024"], "model-context", "error", f"{ROLLOUT}.max_model_len"),
    ("dft", ["optim.lr=0"], "no-effect", "warning", "optim.lr"),
    ("dft", ["optim.clip_grad=0"], "no-effect", "warning", "optim.clip_grad"),
    ("dft", ["optim.lr_warmup_steps=100"], "no-effect", "warning", "optim.lr_warmup_steps"),
    ("nft", ["trainer.total_training_steps=4", f"{ACTOR}.optim.lr_warmup_steps=4"], "no-effect", "warning", f"{ACTOR}.optim.lr_warmup_steps"),
    ("dft", ["model.lora_rank=8", "model.lora_alpha=0"], "no-effect", "warning", "model.lora_alpha"),
    ("dft", ["trainer.test_freq=5"], "no-effect", "warning", "data.val_files"),
    ("nft", [f"{ROLLOUT}.temperature=0"], "no-effect", "error", f"{ROLLOUT}.temperature"),
    ("nft", [f"{ROLLOUT}.top_k=1"], "no-effect", "warning", f"{ROLLOUT}.top_k"),
    ("nft", ["algorithm.filter_groups.enable=False"], "no-effect", "warning", "algorithm.filter_groups.enable"),
    ("nft", ["reward.reward_manager.name=naive"], "no-effect", "warning", "reward.reward_manager.name"),
    ("nft", [f"{ACTOR}.use_kl_loss=True", f"{ACTOR}.kl_loss_coef=0"], "no-effect", "warning", f"{ACTOR}.kl_loss_coef"),
    ("nft", [f"{ACTOR}.optim.lr=1e-3"], "learning-rate", "warning", f"{ACTOR}.optim.lr"),
    ("nft", ["trainer.nnodes=2"], "launch", "error", "trainer.nnodes"),
    ("dft", ["trainer.device=cpu", "model.use_liger=True"], "bad-value", "error", "model.use_liger"),
    ("dft", ["--cfg"], "launch", "warning", "--cfg"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("trainer", "arguments", "code", "level", "key"), MISTAKES, ids=[f"{m[0]}:{' '.join(m[1])}" for m in MISTAKES]
)
def test_a_mistake_is_found(good, trainer, arguments, code, level, key):
    report = good.examine(trainer, *arguments)
    hits = [finding for finding in found(report, code) if finding.key == key]
    assert hits, [(finding.code, finding.key, finding.message) for finding in report.findings]
    assert hits[0].level == level
    assert hits[0].message
    if level != "info":
        assert hits[0].fix
    assert exit_code(report.findings) == max({"info": 0, "warning": 1, "error": 2}[f.level] for f in report.findings)


def test_an_unknown_key_names_the_one_that_was_meant(good):
    (finding,) = found(good.examine("dft", "optin.lr=1e-5"), "unknown-key")
    assert "did you mean optim.lr?" in finding.message


def test_one_mistake_does_not_hide_the_next(good):
    report = good.examine("dft", "optin.lr=1", "modle.path=x", "data.micro_batch_size_per_gpu=3", "optim.lr=0")
    assert {finding.key for finding in found(report, "unknown-key")} == {"optin.lr", "modle.path"}
    assert found(report, "bad-batch") and found(report, "no-effect")


def test_a_data_source_that_nobody_grades_is_found(good, tmp_path):
    rows = [row | {"data_source": "mahts"} for row in graded_rows(32)]
    path = write_parquet(tmp_path / "train.parquet", rows)
    (finding,) = found(good.examine("nft", f"data.train_files={path}"), "no-grader")
    assert finding.level == "error" and "mahts" in finding.message and "did you mean 'math'" in finding.fix


def test_a_data_source_of_the_last_row_counts_too(good, tmp_path):
    rows = graded_rows(1100)
    rows[-1]["data_source"] = "unheard_of"
    path = write_parquet(tmp_path / "train.parquet", rows)
    assert found(good.examine("nft", f"data.train_files={path}"), "no-grader")


def test_a_proof_without_a_judge_is_found(good, tmp_path):
    rows = [row | {"data_source": "proof"} for row in graded_rows(32)]
    path = write_parquet(tmp_path / "train.parquet", rows)
    (finding,) = found(good.examine("nft", f"data.train_files={path}"), "no-grader")
    assert finding.key == "reward.reward_kwargs.judge"


def test_an_answer_that_is_missing_is_found_with_its_row(good, tmp_path):
    rows = graded_rows(32)
    rows[7]["reward_model"]["ground_truth"] = ""
    path = write_parquet(tmp_path / "train.parquet", rows)
    (finding,) = found(good.examine("nft", f"data.train_files={path}"), "data-columns")
    assert "row 7" in finding.message and finding.level == "error"


def test_rows_that_repeat_are_found(good, tmp_path):
    path = write_parquet(tmp_path / "train.parquet", graded_rows(16) * 4)
    (finding,) = found(good.examine("dft", f"data.train_files={path}"), "repeated-rows")
    assert finding.level == "warning" and "75%" in finding.message


def test_validation_on_training_data_is_found(good):
    assert found(good.examine("dft", f"data.val_files={good.train}"), "leak")


def test_generations_without_a_mixed_group_are_found(good, tmp_path):
    path = write_json_lines(tmp_path / "rollouts.jsonl", rollout_rows(32, correct=(1, 1)))
    report = good.examine("nft_offline", f"data.rollouts={path}")
    assert any(f.level == "error" and "right and wrong responses" in f.message for f in report.findings)


def test_a_model_without_a_chat_template_is_found(good, tmp_path):
    model = save_tiny_model(tmp_path / "model", chat_template=None)
    (finding,) = found(good.examine("dft", f"model.path={model}"), "not-set")
    assert finding.key == "data.chat_template_file"


def test_heads_that_sequence_parallelism_cannot_share_are_found(good, tmp_path):
    model = save_tiny_model(tmp_path / "model", heads=3, kv_heads=3, hidden_size=48)
    report = good.examine("dft", f"model.path={model}", "engine.ulysses_sequence_parallel_size=2")
    (finding,) = found(report, "sequence-parallel")
    assert finding.level == "error" and "3 attention heads" in finding.fix


def test_heads_that_generation_cannot_share_are_found(good, tmp_path):
    model = save_tiny_model(tmp_path / "model", heads=3, kv_heads=3, hidden_size=48)
    report = good.examine("nft", f"actor_rollout_ref.model.path={model}", f"{ROLLOUT}.tensor_model_parallel_size=2")
    assert found(report, "rollout-parallel")[0].level == "error"


def test_a_disk_that_is_too_small_is_an_error_where_it_was_named_and_else_a_warning(good):
    small = dataclasses.replace(MUCH_DISK, disk_free=1000.0)
    (finding,) = found(good.examine("dft", options=small), "disk-space")
    assert finding.level == "error" and finding.key == "trainer.default_local_dir"
    big = [
        "model.path=Qwen/Qwen2.5-32B",
        "trainer.save_freq=1",
        "data.train_batch_size=4",
        "data.micro_batch_size_per_gpu=1",
    ]
    here = good.examine("dft", *big, options=dataclasses.replace(MUCH_DISK, disk_free=None), nproc=4)
    assert [finding.level for finding in found(here, "disk-space")] == ["warning"]


def test_training_that_does_not_fit_is_found_with_what_would_help(good):
    report = good.examine("dft", "model.path=Qwen/Qwen2.5-Math-7B", nproc=1)
    (finding,) = found(report, "memory-training")
    assert finding.level == "error"
    assert "more GPUs" in finding.fix and "engine.offload_policy=True" in finding.fix


def test_logits_that_do_not_fit_call_for_the_chunked_head(good):
    more = ["model.path=Qwen/Qwen2.5-Math-1.5B", "data.max_length=4096", "data.micro_batch_size_per_gpu=16"]
    more += ["data.train_batch_size=64"]
    (finding,) = found(good.examine("dft", *more, "model.fused_kernel_options.loss_head=plain"), "memory-training")
    assert "model.fused_kernel_options.loss_head=chunked" in finding.fix
    assert not found(good.examine("dft", *more), "memory-training")


def test_generation_that_does_not_fit_beside_training_is_found(good):
    more = [
        "actor_rollout_ref.model.path=Qwen/Qwen2.5-Math-7B",
        "data.max_response_length=2048",
        f"{ROLLOUT}.gpu_memory_utilization=0.9",
    ]
    (finding,) = found(good.examine("nft", *more), "memory-rollout")
    assert "optimizer_offload=True" in finding.fix
    offloaded = [f"{ACTOR}.fsdp_config.param_offload=True", f"{ACTOR}.fsdp_config.optimizer_offload=True"]
    assert not found(good.examine("nft", *more, *offloaded), "memory-rollout")


def test_weights_that_do_not_fit_into_the_engines_share_are_found(good):
    device = dataclasses.replace(DEVICES["h100"], memory_bytes=20 * GIB)
    more = ["actor_rollout_ref.model.path=Qwen/Qwen2.5-Math-7B"]
    report = good.examine("nft", *more, options=dataclasses.replace(MUCH_DISK, device=device))
    assert any("weights alone" in finding.message for finding in found(report, "memory-rollout"))


def test_a_machine_without_a_gpu_is_no_mistake(good):
    report = good.examine("dft", "model.use_liger=True", "model.override_config.attn_implementation=flash_attention_2")
    assert not any(finding.level == "error" for finding in report.findings)
