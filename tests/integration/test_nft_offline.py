"""Offline NFT: the numbers of a plain loop, and of an uninterrupted run wherever a run was killed."""

from __future__ import annotations

import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.launch import (
    NFT_TRAINER,
    finish,
    kill,
    metrics,
    nft_arguments,
    one_rank,
    run,
    start,
    wait_until,
)
from tests.support.rollouts import rollout_rows, without_signal, write_json_lines
from tests.support.tiny_model import save_tiny_model
from verl_ext.data.batching import GlobalBatches
from verl_ext.data.rollout_dataset import RolloutDataset
from verl_ext.data.rollout_rows import RolloutDataConfig

EPOCHS, STEPS = 3, 9
EPS, TEMPERATURE = 0.7, 0.8


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory):
    """12 prompts that teach, in groups of 3 to 6, and two that do not."""
    rows = rollout_rows(12)
    rows[3:3] = [without_signal(rows[0], right=True), without_signal(rows[0], right=False)]
    return write_json_lines(tmp_path_factory.mktemp("data") / "rollouts.jsonl", rows)


@pytest.fixture(scope="module")
def val_rollouts(tmp_path_factory):
    return write_json_lines(tmp_path_factory.mktemp("data") / "val.jsonl", rollout_rows(3, seed=5))


@pytest.fixture(scope="module")
def arguments(model_folder, rollouts, val_rollouts):
    def of(folder, *more):
        return nft_arguments(
            *(model_folder, rollouts, folder, f"data.val_rollouts={val_rollouts}", f"objective.eps={EPS}"),
            *(f"data.temperature={TEMPERATURE}", f"trainer.total_epochs={EPOCHS}", "trainer.save_freq=2"),
            *("trainer.test_freq=4", "optim.weight_decay=0.1", "trainer.log_entropy=True", *more),
        )

    return of


@pytest.fixture(scope="module")
def uninterrupted(arguments, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    output = run(arguments(folder), ranks=2, log=folder / "log.txt", trainer=NFT_TRAINER)
    return folder, output


def log_probs_of(model, row) -> torch.Tensor:
    """log pi of the response tokens at the temperature of the run."""
    log_probs = (model(input_ids=row["input_ids"][None]).logits[0, :-1] / TEMPERATURE).log_softmax(-1)
    return log_probs.gather(-1, row["input_ids"][1:, None])[:, 0][row["loss_mask"][1:].bool()]


@torch.no_grad()
def entropies_of(model, row) -> torch.Tensor:
    """Entropy of the distribution that each response token was predicted from, at the temperature of the run."""
    logits = model(input_ids=row["input_ids"][None]).logits[0, :-1] / TEMPERATURE
    return torch.distributions.Categorical(logits=logits).entropy()[row["loss_mask"][1:].bool()]


def plain_losses(model, row, old) -> torch.Tensor:
    """Eq. 10 of the paper for one response, w = 1 - r: the loss of each of its tokens."""
    ratio = (log_probs_of(model, row) - old).exp()
    rate = row["correct_rate"]
    if row["correct"]:
        return -(1 - rate) * ratio.log()
    negative = (1 - rate * ratio) / (1 - rate)
    clipped = negative + (negative.clamp(min=EPS) - negative).detach()
    return -(1 - rate) * clipped.log()


def plain_loop(model_folder, rollouts, val_rollouts):
    """With transformers and torch.optim alone: one response at a time, fp32, AdamW, clipping, a warm-up of 2 steps."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    data, held_out = (RolloutDataset([str(file)], tokenizer, RolloutDataConfig()) for file in (rollouts, val_rollouts))
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32, attn_implementation="sdpa")
    with torch.no_grad():
        old, held_out_old = ([log_probs_of(model, d.row(row)) for row in range(d.num_rows)] for d in (data, held_out))
    batches = GlobalBatches(len(data), 4, seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.999), weight_decay=0.1)
    log = []
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 1e-3 * min(step / 2, 1.0)
        rows = [row for group in batches.of_step(step) for row in data.rows_of(group)]
        losses = [plain_losses(model, data.row(row), old[row]) for row in rows]
        entropy = torch.cat([entropies_of(model, data.row(row)) for row in rows]).mean().item()
        loss = torch.cat(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        right = [data.correct_of(row) for row in rows]
        log.append(
            {
                "train/loss": loss.item(),
                "train/grad_norm": norm.item(),
                "train/positive_loss": torch.cat([x for x, r in zip(losses, right, strict=True) if r]).mean().item(),
                "train/negative_loss": torch.cat([x for x, r in zip(losses, right, strict=True) if not r])
                .mean()
                .item(),
                "train/entropy": entropy,
                "train/positive_share": sum(right) / len(right),
                "train/responses": len(rows),
                "train/tokens": sum(data.length_of(row) for row in rows),
            }
        )
    with torch.no_grad():
        held = [plain_losses(model, held_out.row(row), held_out_old[row]) for row in range(held_out.num_rows)]
    return log, model, torch.cat(old), torch.cat(held).mean().item()


@pytest.mark.slow
def test_training_equals_a_plain_transformers_loop(uninterrupted, model_folder, rollouts, val_rollouts):
    """On 2 ranks, in micro-batches of 2, with groups of different sizes over both ranks."""
    folder, output = uninterrupted
    assert "train: 12 of 14 prompts have right and wrong responses (1 all right, 1 all wrong: left out" in output
    expected, model, old, val_loss = plain_loop(model_folder, rollouts, val_rollouts)
    kept = load_file(folder / "old_log_probs" / "train.safetensors")["old_log_probs"]
    assert torch.allclose(kept, old, atol=1e-5)
    logged = [entry for entry in metrics(folder) if "train/loss" in entry]
    assert len(logged) == STEPS
    for entry, plain in zip(logged, expected, strict=True):
        for name, value in plain.items():
            assert entry[name] == pytest.approx(value, rel=2e-4, abs=2e-6), (entry["step"], name)
    assert metrics(folder)[-1]["val/loss"] == pytest.approx(val_loss, rel=1e-3)
    trained = AutoModelForCausalLM.from_pretrained(folder / f"global_step_{STEPS}" / "huggingface")
    for name, parameter in model.named_parameters():
        assert torch.allclose(trained.get_parameter(name), parameter, atol=1e-4), name


@pytest.mark.slow
def test_every_step_logs_what_it_learned_from(uninterrupted):
    folder, _ = uninterrupted
    first = metrics(folder)[0]
    assert (first["train/ratio_p1"], first["train/ratio_p99"], first["train/clipped_share"]) == (1.0, 1.0, 0.0)
    last = [entry for entry in metrics(folder) if "train/loss" in entry][-1]
    assert last["train/ratio_p1"] < 1 < last["train/ratio_p99"]
    assert 0 < last["train/correct_rate_p10"] <= last["train/correct_rate_p50"] <= last["train/correct_rate_p90"] < 1
    assert 0 < last["train/positive_token_share"] < 1


def logged_steps(folder) -> int:
    path = folder / "metrics.jsonl"
    return path.read_text().count("train/loss") if path.exists() else 0


@pytest.fixture(scope="module")
def killed(arguments, tmp_path_factory):
    """What a run leaves that is killed after its fifth step."""
    folder = tmp_path_factory.mktemp("killed")
    process = start(arguments(folder), ranks=2, log=folder / "log.txt", trainer=NFT_TRAINER)
    wait_until(lambda: logged_steps(folder) >= 5, process, folder / "log.txt")
    kill(process)
    return folder


@pytest.mark.slow
def test_killed_in_the_middle_it_continues_to_the_same_digits(arguments, uninterrupted, killed, tmp_path):
    """The old log-probs that it kept are not touched again."""
    folder = shutil.copytree(killed, tmp_path / "run")
    kept = folder / "old_log_probs" / "train.safetensors"
    written = kept.stat().st_mtime_ns

    output = run(arguments(folder), ranks=2, log=folder / "log.txt", trainer=NFT_TRAINER)
    assert "continuing after step" in output and "computing log-probs" not in output
    assert kept.stat().st_mtime_ns == written
    assert metrics(folder) == metrics(uninterrupted[0])


@pytest.mark.slow
def test_lost_old_log_probs_are_those_of_the_starting_weights_again(arguments, uninterrupted, killed, tmp_path):
    """One file is cut off, the other is gone; the weights in the checkpoint have moved on."""
    folder = shutil.copytree(killed, tmp_path / "run")
    kept = folder / "old_log_probs"
    (kept / "train.safetensors").write_bytes((kept / "train.safetensors").read_bytes()[:-100])
    (kept / "val.safetensors").unlink()

    output = run(arguments(folder), ranks=2, log=folder / "log.txt", trainer=NFT_TRAINER)
    assert "continuing after step" in output
    assert output.count("computing log-probs") == 2
    assert metrics(folder) == metrics(uninterrupted[0])
    assert (kept / "train.safetensors").read_bytes() == (
        uninterrupted[0] / "old_log_probs" / "train.safetensors"
    ).read_bytes()


def error_of(arguments, log) -> str:
    process = start(arguments, ranks=0, log=log, trainer=NFT_TRAINER, environment=one_rank())
    assert finish(process) == 2, log.read_text()
    (line,) = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.slow
def test_a_run_continues_only_from_its_own_weights_and_data(rollouts, tmp_path):
    model, log = save_tiny_model(tmp_path / "model"), tmp_path / "log.txt"

    def with_data(file, *more):
        return nft_arguments(model, file, tmp_path / "run", "trainer.total_training_steps=2", *more)

    process = start(with_data(rollouts), ranks=0, log=log, trainer=NFT_TRAINER, environment=one_rank())
    assert finish(process) == 0, log.read_text()

    other_grades = tmp_path / "other.jsonl"
    other_grades.write_text(rollouts.read_text().replace("it is 1", "it is 2"))
    assert f"data.rollouts holds something else ({rollouts} there, {other_grades} here)" in error_of(
        with_data(other_grades), log
    )

    shutil.rmtree(model)
    save_tiny_model(model, seed=1)
    error = error_of(with_data(rollouts), log)
    assert f"model.path holds something else ({model} there, {model} here)" in error

    fresh = with_data(rollouts, "trainer.resume_mode=disable")
    process = start(fresh, ranks=0, log=log, trainer=NFT_TRAINER, environment=one_rank())
    assert finish(process) == 0, log.read_text()
    assert "computing log-probs" in log.read_text()  # those of the other weights are not taken


@pytest.mark.slow
def test_a_lora_run_continues(model_folder, rollouts, tmp_path):
    """Its adapter starts from random numbers, which must be the same ones for the weights to be known again."""

    def steps(count):
        more = (f"trainer.total_training_steps={count}", "model.lora_rank=4", "trainer.save_freq=2")
        more += ("trainer.extend_run=True",)
        return nft_arguments(model_folder, rollouts, tmp_path, *more)

    run(steps(2), ranks=2, log=tmp_path / "log.txt", trainer=NFT_TRAINER)
    output = run(steps(3), ranks=2, log=tmp_path / "log.txt", trainer=NFT_TRAINER)
    assert "continuing after step 2 of 3" in output and "computing log-probs" not in output
    assert (tmp_path / "global_step_3" / "lora_adapter" / "adapter_model.safetensors").exists()


@pytest.mark.slow
def test_a_signal_ends_a_step_or_the_old_log_probs_with_75(model_folder, rollouts, tmp_path):
    log, many = tmp_path / "log.txt", write_json_lines(tmp_path / "many.jsonl", rollout_rows(1500))
    process = start(
        nft_arguments(model_folder, many, tmp_path / "many"),
        ranks=0,
        log=log,
        trainer=NFT_TRAINER,
        environment=one_rank(),
    )
    wait_until(lambda: "computing log-probs" in log.read_text(), process, log)
    os.kill(process.pid, signal.SIGTERM)
    assert finish(process) == 75
    assert "stopped before the first step by SIGTERM" in log.read_text()
    assert not list((tmp_path / "many").glob("global_step_*")) and not (tmp_path / "many" / "old_log_probs").exists()

    folder = tmp_path / "few"
    arguments = nft_arguments(model_folder, rollouts, folder, "trainer.total_epochs=100")
    process = start(arguments, ranks=0, log=log, trainer=NFT_TRAINER, environment=one_rank())
    wait_until(lambda: logged_steps(folder) >= 2, process, log)
    os.kill(process.pid, signal.SIGTERM)
    assert finish(process) == 75
    saved = int((folder / "latest_checkpointed_iteration.txt").read_text())
    assert f"stopped after step {saved} by SIGTERM" in log.read_text()
