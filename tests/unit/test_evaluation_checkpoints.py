"""What can be evaluated: folders, adapters, checkpoints; what is made of them is made once and never overwritten.

Sharded checkpoints are made by real runs: see tests/integration/test_training.py.
"""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from verl_ext.errors import UserError
from verl_ext.evaluation.checkpoints import export, find_model, model_folder_of


@pytest.fixture
def adapter(model_folder, tmp_path):
    """An adapter that changes the model, and the logits of the changed model."""
    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(model_folder),
        LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], init_lora_weights=False),
    ).eval()
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", model(torch.arange(5, 25)[None]).logits


def test_an_adapter_is_merged_into_a_folder_that_transformers_loads(adapter, tmp_path):
    path, logits = adapter
    export(str(path), tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert torch.allclose(merged(torch.arange(5, 25)[None]).logits, logits, atol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
    assert not (tmp_path / "out.incomplete").exists()


def test_another_dtype_can_be_asked_for(adapter, model_folder, tmp_path):
    export(str(adapter[0]), tmp_path / "adapter-16", dtype="bfloat16")
    export(str(model_folder), tmp_path / "model-16", dtype="bfloat16")
    for name in ("adapter-16", "model-16"):
        assert json.loads((tmp_path / name / "config.json").read_text())["dtype"] == "bfloat16"
    with pytest.raises(UserError, match="dtype: got 'int8'"):
        export(str(adapter[0]), tmp_path / "other", dtype="int8")


def test_an_export_is_made_once_and_never_overwritten(adapter, tmp_path, capsys):
    path, _ = adapter
    first = model_folder_of(str(path), tmp_path / "run")
    assert f"{path} holds a LoRA adapter: exporting it" in capsys.readouterr().err
    made = (tmp_path / "run" / "model" / "model.safetensors").stat().st_mtime_ns
    assert model_folder_of(str(path), tmp_path / "run") == first
    assert (tmp_path / "run" / "model" / "model.safetensors").stat().st_mtime_ns == made
    (path / "adapter_model.safetensors").touch()
    with pytest.raises(UserError, match="was not exported from .*adapter as it is now; choose another folder"):
        model_folder_of(str(path), tmp_path / "run")
    with pytest.raises(UserError, match="is there already; name a new folder"):
        export(str(path), tmp_path / "run" / "model")


def test_an_interrupted_export_is_made_anew(adapter, tmp_path):
    (tmp_path / "out.incomplete").mkdir()
    (tmp_path / "out.incomplete" / "model.safetensors").write_text("half")
    export(str(adapter[0]), tmp_path / "out")
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_an_adapter_without_its_base_is_named(adapter, tmp_path):
    path, _ = adapter
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(UserError, match="names no base model; give it with base=PATH"):
        export(str(path), tmp_path / "out")
    with pytest.raises(UserError, match="./gone not found"):
        export(str(path), tmp_path / "out", base="./gone")


def test_finished_models_and_hub_ids_are_taken_as_they_are(model_folder, tmp_path):
    assert model_folder_of(str(model_folder), tmp_path) == str(model_folder)
    assert model_folder_of("Qwen/Qwen2.5-Math-1.5B", tmp_path) == "Qwen/Qwen2.5-Math-1.5B"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ([], "no config.json in"),
        (["model_world_size_2_rank_0.pt"], "no huggingface/config.json beside the shards"),
        (["actor/model_world_size_2_rank_0.pt"], "no huggingface/config.json beside the shards"),
    ],
)
def test_a_folder_that_holds_no_whole_model_is_named(tmp_path, layout, message):
    (tmp_path / "checkpoint").mkdir()
    for name in layout:
        (tmp_path / "checkpoint" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "checkpoint" / name).write_bytes(b"")
    with pytest.raises(UserError, match=message):
        model_folder_of(str(tmp_path / "checkpoint"), tmp_path / "run")


def test_the_newest_checkpoint_of_a_run_is_found(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "global_step_20" / "huggingface")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("20")
    assert find_model(str(tmp_path)).path == str(tmp_path / "global_step_20" / "huggingface")
    (tmp_path / "global_step_20" / "huggingface.incomplete").mkdir()
    with pytest.raises(UserError, match="no config.json"):
        find_model(str(tmp_path))
