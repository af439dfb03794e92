"""RoPE that a run changes is the RoPE that is trained, saved and read back; what would be ignored is refused by key."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, Qwen2AudioConfig, Qwen3VLConfig
from verl.utils.config import omega_conf_to_dataclass

from tests.support.tiny_model import save_tiny_model
from verl_ext.engine.hf_export import write_model
from verl_ext.errors import UserError
from verl_ext.model_folder import read_hf_config
from verl_ext.model_rope import changed_rope, lay_rope_on
from verl_ext.rope_folder import copy_with_rope, main
from verl_ext.trainer.online.vocabulary import NFT_VOCABULARY
from verl_ext.trainer.run.command_line import compose_config
from verl_ext.trainer.run.model_checks import check_model
from verl_ext.trainer.supervised.vocabulary import DFT_VOCABULARY

TOKENS = torch.arange(5, 205)[None] % 256
YARN = {"rope_type": "yarn", "factor": 4.0, "beta_fast": 4.0, "beta_slow": 1.0, "rope_theta": 500000.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ROPES = {
    "base": {"rope_theta": 1000000.0},
    "linear": {"rope_type": "linear", "factor": 2.0},
    "yarn": YARN,
    "llama3": LLAMA3,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def logits(folder) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


def yarn_frequencies(dim: int, base: float, factor: float, length: int, fast: float, slow: float) -> torch.Tensor:
    """YaRN (arXiv 2309.00071, section 3.2) in a few lines of fp64: (dim / 2,)."""
    frequencies = base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)

    def index(turns: float) -> float:
        return dim * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(math.floor(index(fast)), 0), min(math.ceil(index(slow)), dim - 1)
    ramp = ((torch.arange(dim // 2, dtype=torch.float64) - low) / max(high - low, 1e-3)).clamp(0, 1)
    return frequencies / factor * ramp + frequencies * (1 - ramp)


def test_the_model_is_built_with_the_frequencies_of_the_changed_rope(folder):
    config = read_hf_config(str(folder), trust_remote_code=False)
    lay_rope_on(config, YARN)
    rotary = AutoModelForCausalLM.from_config(config).model.rotary_emb
    expected = yarn_frequencies(config.head_dim, 500000.0, 4.0, 512, 4.0, 1.0)
    torch.testing.assert_close(rotary.inv_freq.double(), expected, rtol=1e-6, atol=0)
    assert rotary.attention_scaling == pytest.approx(0.1 * math.log(4) + 1)
    assert config.max_position_embeddings == 2048


def test_verls_engines_get_the_changed_configuration(folder):
    config = compose_config("dft_trainer", [f"model.path={folder}", "model.rope.rope_theta=1e6"], DFT_VOCABULARY)
    built = omega_conf_to_dataclass(config.model)
    assert built.hf_config.rope_parameters == {"rope_type": "default", "rope_theta": 1e6}
    assert type(built.hf_config.rope_parameters) is dict


@pytest.mark.parametrize("name", ROPES)
def test_an_export_has_both_spellings_and_loads_to_the_same_logits(folder, tmp_path, name):
    config = read_hf_config(str(folder), trust_remote_code=False)
    lay_rope_on(config, ROPES[name])
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, attn_implementation="eager").eval()
    with torch.no_grad():
        trained = model(input_ids=TOKENS).logits
    write_model(config, model.state_dict(), dtype=torch.float32, generation_config=None, folder=tmp_path)
    assert (trained - logits(folder)).abs().max() > 1e-3  # or the comparison below says nothing
    torch.testing.assert_close(logits(tmp_path), trained, rtol=0, atol=0)

    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["rope_theta"] == saved["rope_parameters"]["rope_theta"] == config.rope_parameters["rope_theta"]
    scaling = {key: value for key, value in saved["rope_parameters"].items() if key != "rope_theta"}
    assert saved["rope_scaling"] == (None if name == "base" else scaling)
    copied = AutoConfig.from_pretrained(tmp_path)
    assert copied.rope_parameters == config.rope_parameters
    assert copied.max_position_embeddings == config.max_position_embeddings


def test_a_type_that_is_replaced_leaves_nothing_of_its_scaling(folder):
    config = read_hf_config(str(folder), trust_remote_code=False)
    lay_rope_on(config, LLAMA3)
    assert config.max_position_embeddings == 8 * 512
    assert changed_rope(config, {"rope_theta": 2.0})[0] == {**config.rope_parameters, "rope_theta": 2.0}
    assert changed_rope(config, {"rope_type": "default"}) == ({"rope_type": "default", "rope_theta": 10000.0}, 512)
    parameters, context = changed_rope(config, {"rope_type": "yarn", "factor": 2, "max_position_embeddings": 900})
    assert parameters == {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 2,
        "original_max_position_embeddings": 512,
    }
    assert context == 900


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rope.rope_type=yarn"], "model.rope.factor: got None, expected a number, with rope_type=yarn"),
        (["rope.rope_type=dynamic", "rope.factor=2"], "model.rope.rope_type: got 'dynamic', expected one of default"),
        (["rope.factor=2"], "model.rope.factor: got 2, expected nothing with rope_type=default"),
        (["rope.rope_type=linear", "rope.factor=0.5"], "model.rope.factor: got 0.5, expected a number of 1 or more"),
        (["rope.rope_theta=much"], "model.rope.rope_theta: got 'much', expected a positive number"),
        (
            ["rope.max_position_embeddings=1e3"],
            "model.rope.max_position_embeddings: got 1000.0, expected a positive whole",
        ),
        (
            ["rope.rope_type=yarn", "rope.factor=2", "rope.beta_fast=1"],
            "model.rope.beta_fast: got 1, expected more than",
        ),
        (
            ["rope.rope_theta=1e6"],
            "data.max_length: got 2048, expected at most 512, .*model.rope.max_position_embeddings",
        ),
        (["override_config.rope_theta=1e6"], r"model.override_config.rope_theta: would change .* set model.rope.\*"),
        (["override_config.rope_scaling.factor=2"], r"override_config.rope_scaling: would change .* set model.rope.\*"),
        (["override_config.hiden_size=8"], "model.override_config.hiden_size: LlamaConfig has no .*mean hidden_size"),
        (
            ["override_config.max_position_embeddings=8192", "rope.rope_theta=1e6"],
            "model.override_config.max_position_embeddings: set model.rope.max_position_embeddings instead",
        ),
    ],
)
def test_what_would_be_ignored_or_cannot_work_is_refused_by_its_key(folder, overrides, message):
    config = compose_config("dft_trainer", [f"model.{override}" for override in overrides], DFT_VOCABULARY)
    config.model.path = str(folder)
    hf_config = read_hf_config(str(folder), trust_remote_code=False)
    with pytest.raises(UserError, match=message):
        check_model(config.model, hf_config, "model", max_length=config.data.max_length)


def test_online_training_points_to_a_folder_with_its_own_rope(folder):
    overrides = ["actor_rollout_ref.model.override_config.rope_theta=1e6"]
    model = compose_config("nft_trainer", overrides, NFT_VOCABULARY).actor_rollout_ref.model
    hf_config = read_hf_config(str(folder), trust_remote_code=False)
    with pytest.raises(UserError, match=r"override_config.rope_theta: would change .*verl_ext.rope_folder"):
        check_model(model, hf_config, "actor_rollout_ref.model")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Qwen3VLConfig(), "model.path: M reads images .Qwen3VLConfig"),
        (Qwen2AudioConfig(), "model.path: M reads sound .Qwen2AudioConfig"),
        (GPT2Config(architectures=["GPT2ForSequenceClassification"]), "M is a GPT2ForSequenceClassification, expected"),
        (GPT2Config(), "model.rope: GPT2Config has no rotary position embeddings"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused_by_name(config, message):
    model = compose_config("dft_trainer", ["model.path=M", "model.rope.rope_theta=1e6"], DFT_VOCABULARY).model
    with pytest.raises(UserError, match=message):
        check_model(model, config, "model")


def test_a_copied_folder_has_the_new_rope_and_leaves_the_model_alone(folder, tmp_path, capsys):
    before = (folder / "config.json").read_text()
    assert main([f"model={folder}", f"output={tmp_path / 'yarn'}", "rope_type=yarn", "factor=4"]) == 0
    assert "context 2048" in capsys.readouterr().out
    assert (folder / "config.json").read_text() == before
    assert AutoConfig.from_pretrained(tmp_path / "yarn").rope_parameters["factor"] == 4
    assert {path.name for path in (tmp_path / "yarn").iterdir()} == {path.name for path in folder.iterdir()}
    with pytest.raises(UserError, match="output: .* exists"):
        copy_with_rope(folder, tmp_path / "yarn", {"rope_theta": 5.0})
    with pytest.raises(SystemExit):
        main([f"model={folder}", f"output={tmp_path / 'other'}", "rope_teta=5"])
    assert "unknown key rope_teta; did you mean rope_theta?" in capsys.readouterr().err


@pytest.mark.slow
def test_transformers_4_reads_an_export_to_the_same_logits(folder, tmp_path):
    """In an environment of its own over this one's torch; skipped where its packages cannot be installed."""
    packages = ["transformers==4.57.1", "huggingface_hub==0.36.0"]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path / "old"), *packages]
    installed = subprocess.run(pip, check=False, capture_output=True, text=True)
    if installed.returncode != 0:
        pytest.skip(f"transformers 4 cannot be installed: {installed.stderr.strip().splitlines()[-1:]}")
    expected = {}
    for name, rope in ROPES.items():
        config = read_hf_config(str(folder), trust_remote_code=False)
        lay_rope_on(config, rope)
        weights = AutoModelForCausalLM.from_pretrained(folder).state_dict()
        write_model(config, weights, dtype=torch.float32, generation_config=None, folder=tmp_path / name)
        expected[name] = logits(tmp_path / name)
    code = (
        "import sys, torch, transformers; assert transformers.__version__ == '4.57.1'\n"
        "tokens = torch.arange(5, 205)[None] % 256\n"
        "for folder in sys.argv[1:]:\n"
        "    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation='eager').eval()\n"
        "    torch.save(model(input_ids=tokens).logits.detach(), folder + '/logits.pt')\n"
    )
    folders = [str(tmp_path / name) for name in ROPES]
    environment = {"PYTHONPATH": str(tmp_path / "old"), "PATH": "", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *folders]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    for name in ROPES:
        torch.testing.assert_close(torch.load(tmp_path / name / "logits.pt"), expected[name], rtol=0, atol=1e-6)
