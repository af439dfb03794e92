"""Whole runs: the same numbers as a plain loop, and results that other programs load."""

from __future__ import annotations

import gzip
import math
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.launch import finish, metrics, run, start, trainer_arguments
from tests.support.tiny_model import CHAT_TEMPLATE, save_tiny_model
from verl_ext.data.batching import GlobalBatches
from verl_ext.data.sft_dataset import SFTDataConfig, SFTDataset
from verl_ext.errors import UserError
from verl_ext.evaluation.checkpoints import export, find_model

STEPS = 5
LEARNING_RATE = 1e-2
NESTED = SFTDataConfig(
    prompt_key="extra_info", response_key="extra_info", prompt_dict_keys=["question"], response_dict_keys=["answer"]
)


def plain_loop(model_folder, train_file) -> tuple[list[dict], torch.nn.Module]:
    """DFT with transformers and torch.optim alone: fp32, AdamW, clipping, cosine schedule with warm-up."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    dataset = SFTDataset([str(train_file)], tokenizer, NESTED)
    batches = GlobalBatches(len(dataset), 8, seed=1)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32, attn_implementation="sdpa")
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    warmup = 1
    log = []
    for step in range(STEPS):
        progress = (step - warmup) / (STEPS - warmup)
        factor = step / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * progress))
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * factor
        losses, entropies = [], []
        for row in (dataset[index] for index in batches.of_step(step)):
            log_probs = model(input_ids=row["input_ids"][None]).logits[0, :-1].log_softmax(-1)
            log_probs = log_probs.gather(-1, row["input_ids"][1:, None])[:, 0][row["loss_mask"][1:].bool()]
            losses.append(-log_probs.detach().exp() * log_probs)
            entropies.append(-log_probs.detach())
        loss = torch.cat(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        log.append(
            {
                "train/loss": loss.item(),
                "train/cross_entropy": torch.cat(entropies).mean().item(),
                "train/target_prob": torch.cat(entropies).neg().exp().mean().item(),
                "train/grad_norm": norm.item(),
                "train/lr": LEARNING_RATE * factor,
            }
        )
    return log, model


@pytest.fixture(scope="module")
def finished_run(model_folder, train_file, val_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    arguments = trainer_arguments(
        *(model_folder, train_file, folder),
        *(f"data.val_files={val_file}", f"optim.lr={LEARNING_RATE}", "optim.lr_warmup_steps_ratio=0.2"),
        *(f"trainer.total_training_steps={STEPS}", "trainer.logger=[console,tensorboard]"),
    )
    output = run(arguments, ranks=2, log=folder / "log.txt")
    return folder, output


@pytest.mark.slow
def test_training_equals_a_plain_transformers_loop(finished_run, model_folder, train_file):
    folder, _ = finished_run
    expected, model = plain_loop(model_folder, train_file)
    logged = [entry for entry in metrics(folder) if "train/loss" in entry]
    assert len(logged) == STEPS
    for entry, plain in zip(logged, expected, strict=True):
        for name, value in plain.items():
            assert entry[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    trained = AutoModelForCausalLM.from_pretrained(folder / f"global_step_{STEPS}" / "huggingface")
    for name, parameter in model.named_parameters():
        assert torch.allclose(trained.get_parameter(name), parameter, atol=1e-4), name


@pytest.mark.slow
def test_validation_is_the_mean_over_all_rows(finished_run, val_file):
    """7 rows on 2 ranks with micro-batches of 2: no number divides another."""
    folder, _ = finished_run
    model_folder = folder / f"global_step_{STEPS}" / "huggingface"
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    dataset = SFTDataset([str(val_file)], AutoTokenizer.from_pretrained(model_folder), NESTED)
    log_probs = []
    for row in (dataset[index] for index in range(len(dataset))):
        logits = model(input_ids=row["input_ids"][None]).logits[0, :-1].log_softmax(-1)
        log_probs.append(logits.gather(-1, row["input_ids"][1:, None])[:, 0][row["loss_mask"][1:].bool()].detach())
    log_probs = torch.cat(log_probs)
    logged = metrics(folder)[-1]
    assert logged["val/cross_entropy"] == pytest.approx(-log_probs.mean().item(), rel=1e-5)
    assert logged["val/loss"] == pytest.approx((-log_probs.exp() * log_probs).mean().item(), rel=1e-5)


@pytest.mark.slow
def test_a_run_leaves_curves_a_log_and_one_checkpoint(finished_run):
    folder, output = finished_run
    assert "train: 48 rows from 1 file(s)" in output
    assert f"saved {folder / f'global_step_{STEPS}'}" in output
    assert "Traceback" not in output
    assert list((folder / "tensorboard").glob("events.*"))
    assert (folder / "latest_checkpointed_iteration.txt").read_text() == str(STEPS)
    assert not list(folder.glob("*.incomplete"))
    model_folder = folder / f"global_step_{STEPS}" / "huggingface"
    assert AutoTokenizer.from_pretrained(model_folder).chat_template
    assert not list(model_folder.parent.glob("huggingface.incomplete"))


def without_weights(checkpoint, folder):
    """A checkpoint as it is before the last one of a run: shards, and beside them only configuration and tokenizer."""
    copy = shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("*.safetensors", "lora_adapter", "optim*"))
    assert not list((copy / "huggingface").glob("*.safetensors"))
    return copy


@pytest.mark.slow
def test_shards_of_two_ranks_make_the_model_that_the_run_exported(finished_run, tmp_path):
    folder, _ = finished_run
    checkpoint = folder / f"global_step_{STEPS}"
    shards = without_weights(checkpoint, tmp_path / "global_step_5")
    export(str(shards), tmp_path / "exported")
    ours, theirs = (
        load_file(path / "model.safetensors") for path in (tmp_path / "exported", checkpoint / "huggingface")
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert AutoTokenizer.from_pretrained(tmp_path / "exported").chat_template == CHAT_TEMPLATE
    assert find_model(str(folder)).path == str(checkpoint / "huggingface")
    assert find_model(str(checkpoint)).kind == "model" and find_model(str(shards)).kind == "shards"
    next(shards.glob("model_world_size_2_rank_1.pt")).unlink()
    with pytest.raises(UserError, match="no model_world_size_2_rank_1.pt; the checkpoint is not complete"):
        export(str(shards), tmp_path / "again")


def save_adapter(model_folder, folder) -> None:
    """An adapter of many kinds at once: DoRA, rsLoRA, a rank of its own, on a head that is tied to the embedding."""
    torch.manual_seed(0)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        use_dora=True,
        use_rslora=True,
        rank_pattern={"q_proj": 2},
        init_lora_weights=False,
        target_modules=["q_proj", "up_proj", "lm_head"],
        task_type="CAUSAL_LM",
    )
    get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder), config).save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["of the trainer", "from a folder"])
def test_a_lora_run_leaves_merged_weights_and_the_adapter(train_file, tmp_path, adapter):
    """On a base model, whose chat template comes from a file and goes along with the trained model."""
    model_folder = save_tiny_model(tmp_path / "base", chat_template=None)
    template = tmp_path / "template.jinja"
    template.write_text(CHAT_TEMPLATE)
    lora = ["model.lora_rank=4", "model.lora_alpha=8"]
    if adapter == "from a folder":
        save_adapter(model_folder, tmp_path / "adapter")
        lora = ["model.lora_rank=4", f"model.lora_adapter_path={tmp_path / 'adapter'}"]
    arguments = trainer_arguments(
        *(model_folder, train_file, tmp_path, *lora, "optim.lr=1e-2"),
        *("trainer.total_training_steps=2", f"data.chat_template_file={template}"),
    )
    run(arguments, ranks=1, log=tmp_path / "log.txt")
    checkpoint = tmp_path / "global_step_2"
    assert AutoTokenizer.from_pretrained(checkpoint / "huggingface").chat_template == CHAT_TEMPLATE
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    adapted = PeftModel.from_pretrained(base, checkpoint / "huggingface" / ".." / "lora_adapter").eval()
    merged = AutoModelForCausalLM.from_pretrained(checkpoint / "huggingface").eval()
    tokens = torch.arange(5, 25)[None]
    assert torch.allclose(merged(tokens).logits, adapted(tokens).logits, atol=1e-5)
    untouched = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    assert not torch.allclose(merged(tokens).logits, untouched(tokens).logits, atol=1e-3)

    for name, source in {
        "from shards": without_weights(checkpoint, tmp_path / "global_step_1"),
        "from the adapter": checkpoint / "lora_adapter",
    }.items():
        export(str(source), tmp_path / name, base=str(model_folder))
        exported = AutoModelForCausalLM.from_pretrained(tmp_path / name).eval()
        assert torch.allclose(exported(tokens).logits, merged(tokens).logits, atol=1e-5), name

    shutil.rmtree(tmp_path / "global_step_1" / "lora_config")
    with pytest.raises(
        UserError, match="no lora_config/adapter_config.json, which says how its LoRA adapter is scaled"
    ):
        export(str(tmp_path / "global_step_1"), tmp_path / "unknown")


@pytest.mark.slow
def test_updates_with_a_gradient_that_is_not_finite_stop_the_run(model_folder, train_file, tmp_path):
    """A model with one infinite weight: every update is skipped and counted, the third stops the run."""
    broken = tmp_path / "model"
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    with torch.no_grad():
        model.model.norm.weight[0] = torch.inf
    model.save_pretrained(broken)
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(broken)
    arguments = trainer_arguments(broken, train_file, tmp_path / "run", "trainer.max_skipped_updates=3")
    process = start(arguments, ranks=0, log=tmp_path / "log.txt")
    assert finish(process) == 3
    error = (tmp_path / "log.txt").read_text().splitlines()[-1]
    assert error.startswith("error: step 3: the gradient was not finite in 3 steps in a row")
    rows = GlobalBatches(48, 8, seed=1).of_step(2)
    assert error.endswith(", ".join(f"train.parquet:{row}" for row in rows))
    assert [entry["train/skipped_updates"] for entry in metrics(tmp_path / "run")] == [1, 2, 3]


@pytest.mark.slow
def test_traces_of_the_steps_that_were_asked_for(tmp_path, train_file):
    model = save_tiny_model(tmp_path / "model")
    traces = tmp_path / "traces"
    profiling = ["profiler.enable=True", "profiler.tool=torch", f"profiler.save_path={traces}"]
    profiling += ["trainer.profile_interval=[2,2]", "trainer.total_training_steps=2"]
    arguments = trainer_arguments(model, train_file, tmp_path / "run", *profiling)
    run(arguments, ranks=1, log=tmp_path / "log")
    (trace,) = traces.glob("*.json.gz")
    assert b"aten::mm" in gzip.decompress(trace.read_bytes())
