"""What an adapter has learned is in the model that is exported, whatever kind of adapter it is."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from tests.support.tiny_model import save_tiny_model
from verl_ext.engine.adapters import changes_embeddings, merge_adapter, why_not_mergeable
from verl_ext.engine.hf_export import merge_into_base, write_model
from verl_ext.errors import UserError
from verl_ext.evaluation.checkpoints import export

TOKENS = torch.arange(5, 25)[None]

ADAPTERS = {
    "lora": {"target_modules": "all-linear"},
    "rslora": {"target_modules": "all-linear", "use_rslora": True},
    "dora": {"target_modules": "all-linear", "use_dora": True},
    "patterns": {"target_modules": "all-linear", "rank_pattern": {"q_proj": 3}, "alpha_pattern": {"1.mlp.up_proj": 64}},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "dora_head": {"target_modules": ["q_proj", "lm_head"], "use_dora": True},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "dora_embedding": {"target_modules": ["q_proj", "embed_tokens"], "use_dora": True},
    "head_and_embedding": {"target_modules": ["q_proj", "embed_tokens", "lm_head"], "use_rslora": True},
    "kept_tied": {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    "whole_head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "whole_embedding": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "whole_norm": {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    "some_tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [7, 9]},
    "pissa": {"target_modules": ["q_proj"], "init_lora_weights": "pissa"},
}


@pytest.fixture(scope="module", params=["tied", "untied"])
def base_folder(request, tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp(request.param), tied=request.param == "tied")


def trained(folder, **options) -> PeftModel:
    """A model whose adapter has learned something everywhere: each trained weight is another one than at the start."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(folder)
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **options)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))
    return model


def exported(model: PeftModel, config, folder):
    config, weights = merge_into_base(config, model.peft_config["default"], model.state_dict())
    write_model(config, weights, dtype=torch.float32, generation_config=None, folder=folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def base_config(folder):
    return copy.deepcopy(AutoModelForCausalLM.from_pretrained(folder).config)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_the_exported_model_is_base_and_adapter(base_folder, tmp_path, kind):
    model = trained(base_folder, **ADAPTERS[kind])
    logits = model(TOKENS).logits
    untouched = AutoModelForCausalLM.from_pretrained(base_folder).eval()
    assert not torch.allclose(untouched(TOKENS).logits, logits, atol=1e-3)
    merged = exported(model, base_config(base_folder), tmp_path / "merged")
    torch.testing.assert_close(merged(TOKENS).logits, logits, atol=1e-5, rtol=0)
    assert torch.equal(model(TOKENS).logits, logits), "the model in training was changed"


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_alone_is_exported_to_the_same_logits(base_folder, tmp_path, kind):
    model = trained(base_folder, **ADAPTERS[kind])
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    export(str(tmp_path / "adapter"), tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(merged(TOKENS).logits, model(TOKENS).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [{"bias": "all"}, {"bias": "lora_only"}, {"lora_bias": True}], ids=str)
def test_biases_that_were_trained_are_exported(tmp_path, options):
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, initializer_range=0.2
    )
    config.num_attention_heads, config.num_key_value_heads = 2, 1
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "base")
    model = trained(tmp_path / "base", target_modules=["q_proj", "v_proj"], **options)
    merged = exported(model, base_config(tmp_path / "base"), tmp_path / "merged")
    assert merged.model.layers[0].self_attn.q_proj.bias.abs().max() > 1e-3
    torch.testing.assert_close(merged(TOKENS).logits, model(TOKENS).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("parameters", [["experts.gate_up_proj"], ["experts.gate_up_proj", "experts.down_proj"]])
def test_adapters_on_the_parameters_of_experts_are_exported(tmp_path, parameters):
    config = Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        moe_intermediate_size=8,
        num_experts=4,
        num_experts_per_tok=2,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    Qwen3MoeForCausalLM(config).save_pretrained(tmp_path / "base")
    model = trained(tmp_path / "base", target_modules=["q_proj"], target_parameters=parameters)
    merged = exported(model, base_config(tmp_path / "base"), tmp_path / "merged")
    torch.testing.assert_close(merged(TOKENS).logits, model(TOKENS).logits, atol=1e-5, rtol=0)


def test_embeddings_stay_tied_unless_the_adapter_parts_them(tmp_path):
    folder = save_tiny_model(tmp_path / "base", tied=True)
    for kind, tied in {"lora": True, "kept_tied": True, "head": False, "embedding": False}.items():
        merged = exported(trained(folder, **ADAPTERS[kind]), base_config(folder), tmp_path / kind)
        assert merged.config.tie_word_embeddings is tied, kind


def test_bf16_weights_are_merged_in_fp32_and_rounded_once(tmp_path):
    folder = save_tiny_model(tmp_path / "base", dtype=torch.bfloat16)
    model = trained(folder, target_modules=["q_proj"])
    merged = merge_adapter(base_config(folder), model.peft_config["default"], model.state_dict()).weights
    name = "model.layers.1.self_attn.q_proj"
    layer = model.get_submodule(f"base_model.model.{name}")
    added = 2.0 * layer.lora_B["default"].weight.float() @ layer.lora_A["default"].weight.float()
    assert torch.equal(merged[f"{name}.weight"], (layer.base_layer.weight.float() + added).bfloat16())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"lora_bias": True}, "Impossible to merge LoRA with `lora_bias=True`"),
        ({"alora_invocation_tokens": [3]}, "aLoRA does not support merging"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication makes several layers of one"),
        ({"target_modules": ["nowhere"]}, "nowhere"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_merged_is_known_before_there_are_weights(model_folder, options, reason):
    adapter = LoraConfig(r=4, task_type="CAUSAL_LM", **{"target_modules": ["q_proj"], **options})
    assert reason in why_not_mergeable(base_config(model_folder), adapter)


def test_asking_leaves_configurations_as_they_are(model_folder):
    config, adapter = base_config(model_folder), LoraConfig(r=4, target_modules="all-linear", use_dora=True)
    before = config.to_dict(), adapter.to_dict()
    assert why_not_mergeable(config, adapter) is None
    assert (config.to_dict(), adapter.to_dict()) == before


@pytest.mark.parametrize("kind", ADAPTERS)
def test_what_changes_embeddings_is_known(model_folder, kind):
    adapter = LoraConfig(r=4, task_type="CAUSAL_LM", **ADAPTERS[kind])
    expected = kind not in ("lora", "rslora", "dora", "patterns", "whole_norm", "pissa")
    assert changes_embeddings(base_config(model_folder), adapter) is expected


def test_an_adapter_that_cannot_be_merged_is_named(model_folder, tmp_path):
    trained(model_folder, target_modules=["q_proj"], alora_invocation_tokens=[3]).save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match=r"adapter: cannot be merged into .*: aLoRA does not support merging"):
        export(str(tmp_path / "adapter"), tmp_path / "merged")
