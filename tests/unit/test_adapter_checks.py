"""Adapters that could not be trained, merged or seen by generation are refused before training, by key."""

from __future__ import annotations

import json

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tests.support.tiny_model import save_tiny_model
from verl_ext.errors import UserError
from verl_ext.model_folder import read_hf_config
from verl_ext.trainer.run.adapters import check_adapter, check_adapter_keys
from verl_ext.trainer.run.command_line import compose_config


@pytest.fixture
def check(model_folder):
    """Check overrides of the group `model` on a model with tied embeddings."""

    def _check(*overrides: str, folder=model_folder, generates: bool = False) -> None:
        model = compose_config("dft_trainer", [f"model.{override}" for override in overrides]).model
        check_adapter_keys(model, "model")
        hf_config = read_hf_config(str(folder), trust_remote_code=False)
        check_adapter(model, hf_config, "model", generates=generates)

    return _check


@pytest.fixture
def adapter(model_folder, tmp_path):
    def _adapter(**options) -> str:
        config = LoraConfig(**{"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"} | options)
        get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder), config).save_pretrained(tmp_path / "adapter")
        return f"lora_adapter_path={tmp_path / 'adapter'}"

    return _adapter


def test_what_peft_merges_passes(check, adapter):
    check("lora_rank=0")
    check("lora_rank=8", "target_modules=[q_proj,lm_head]")
    check("lora_rank=8", "target_modules=[q_proj]", generates=True)
    check("lora_rank=4", adapter(use_dora=True, use_rslora=True, modules_to_save=["lm_head"]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lora_rank=-1"], "model.lora_rank: got -1, expected a whole number"),
        (["lora_rank=4.5"], "model.lora_rank: got 4.5, expected a whole number"),
        (
            ["lora_rank=4", "target_modules=[nowhere]"],
            "model.target_modules: this adapter could not be merged .*nowhere",
        ),
        (["lora_rank=4", "lora_adapter_path=./gone"], "model.lora_adapter_path: ./gone"),
    ],
)
def test_a_key_that_makes_no_adapter_is_named(check, overrides, message):
    with pytest.raises(UserError, match=f"^{message}"):
        check(*overrides)


@pytest.mark.parametrize("rank", [0, 8])
def test_the_rank_is_that_of_the_adapter(check, adapter, rank):
    with pytest.raises(UserError, match=f"^model.lora_rank: got {rank}, expected 4, the rank of the adapter in "):
        check(f"lora_rank={rank}", adapter())


@pytest.mark.parametrize("options", [{"lora_bias": True}, {"alora_invocation_tokens": [3]}], ids=str)
def test_an_adapter_that_cannot_be_merged_is_refused(check, adapter, options):
    with pytest.raises(UserError, match="^model.lora_adapter_path: this adapter could not be merged into the model"):
        check("lora_rank=4", adapter(**options))


def test_another_kind_of_adapter_is_refused(check, adapter, tmp_path):
    path = adapter()
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"peft_type": "IA3"}))
    with pytest.raises(UserError, match="adapter_config.json holds an adapter of the kind IA3, expected LORA"):
        check("lora_rank=4", path)
    config.write_text("{")
    with pytest.raises(UserError, match="adapter_config.json is not JSON"):
        check("lora_rank=4", path)


def test_an_adapter_with_a_file_missing_is_named(check, adapter, tmp_path):
    path = adapter()
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="^model.lora_adapter_path: no adapter_model.safetensors in "):
        check("lora_rank=4", path)
    (tmp_path / "adapter" / "adapter_config.json").unlink()
    with pytest.raises(UserError, match="^model.lora_adapter_path: no adapter_config.json in "):
        check("lora_rank=4", path)


@pytest.mark.parametrize("options", [{"modules_to_save": ["norm"]}, {"trainable_token_indices": [3]}], ids=str)
def test_what_generation_would_not_see_is_refused_online(check, adapter, options):
    path = adapter(**options)
    check("lora_rank=4", path)
    with pytest.raises(UserError, match=f"^model.lora_adapter_path: {next(iter(options))} is not supported here"):
        check("lora_rank=4", path, generates=True)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_an_adapter_on_tied_embeddings_is_refused_online(check, tmp_path, target):
    keys = ["lora_rank=4", f"target_modules=[q_proj,{target}]"]
    with pytest.raises(
        UserError, match="^model.target_modules: the model's input and output embeddings are one weight"
    ):
        check(*keys, generates=True)
    check(*keys, folder=save_tiny_model(tmp_path / "untied", tied=False), generates=True)
