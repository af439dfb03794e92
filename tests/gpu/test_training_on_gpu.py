"""On a GPU: the same loss and gradient in bf16 with every attention kernel, Liger and the fused heads."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.launch import metrics, run, trainer_arguments
from tests.support.tiny_model import save_tiny_model
from verl_ext.data.sft_dataset import SFTDataConfig, SFTDataset

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

BF16_TOLERANCE = 2e-2
"""Relative; bf16 keeps 8 bits of a number, and two layers round a few times."""

MODES = {
    "packed": [],
    "padded": ["model.use_remove_padding=False"],
    "dynamic": ["data.use_dynamic_bsz=True", "data.max_token_len_per_gpu=512", "data.max_length=512"],
    "fused torch head": ["model.use_fused_kernels=True"],
    "fused triton head": ["model.use_fused_kernels=True", "model.fused_kernel_options.impl_backend=triton"],
    "fsdp1": ["engine.strategy=fsdp"],
    "offload": ["engine.offload_policy=True"],
    "liger": ["model.use_liger=True"],
    "bf16 weights": ["engine.model_dtype=bf16"],
}


@pytest.fixture(scope="module")
def gpu_model(tmp_path_factory):
    """Head dimension 64, which every attention kernel has."""
    return save_tiny_model(tmp_path_factory.mktemp("model"), hidden_size=256)


def fp32_reference(model_folder, train_file) -> tuple[float, float]:
    """Loss and gradient norm of the first batch in file order, plain transformers on the CPU in fp32."""
    config = SFTDataConfig(
        prompt_key="extra_info", response_key="extra_info", prompt_dict_keys=["question"], response_dict_keys=["answer"]
    )
    dataset = SFTDataset([str(train_file)], AutoTokenizer.from_pretrained(model_folder), config)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32, attn_implementation="sdpa")
    losses = []
    for row in (dataset[index] for index in range(8)):
        log_probs = model(input_ids=row["input_ids"][None]).logits[0, :-1].log_softmax(-1)
        log_probs = log_probs.gather(-1, row["input_ids"][1:, None])[:, 0][row["loss_mask"][1:].bool()]
        losses.append(-log_probs.detach().exp() * log_probs)
    loss = torch.cat(losses).mean()
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    return loss.item(), norm.item()


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_the_same_loss_and_gradient_norm(gpu_model, train_file, tmp_path, mode):
    if mode == "liger" and importlib.util.find_spec("liger_kernel") is None:
        pytest.skip("liger-kernel is not installed")
    arguments = trainer_arguments(
        *(gpu_model, train_file, tmp_path, "trainer.total_training_steps=1", "data.shuffle=False"),
        *("engine.mixed_precision.param_dtype=bf16", *MODES[mode]),
    )
    run(arguments, ranks=1, log=tmp_path / "log.txt")
    (logged,) = metrics(tmp_path)
    loss, norm = fp32_reference(gpu_model, train_file)
    assert logged["train/loss"] == pytest.approx(loss, rel=BF16_TOLERANCE)
    assert logged["train/grad_norm"] == pytest.approx(norm, rel=BF16_TOLERANCE)


@pytest.mark.parametrize("kernel", ["_flash_attn", "_torch_varlen"])
@pytest.mark.parametrize("window", [None, 16])
def test_kernels_equal_sdpa_document_by_document(kernel, window):
    from verl_ext.engine import attention

    needed = {"_flash_attn": attention._flash_attn_varlen_func, "_torch_varlen": attention._torch_varlen_attn}[kernel]
    if needed is None:
        pytest.skip(f"{kernel} is not installed")
    torch.manual_seed(0)
    lengths = torch.tensor([5, 130, 1, 64])
    boundaries = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]).cuda()
    documents = attention.Documents.from_boundaries(boundaries)
    query, key, value = (
        torch.randn(int(lengths.sum()), heads, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for heads in (4, 2, 2)
    )
    options = {"scale": 0.1, "window": window, "dropout": 0.0, "causal": True}
    ours = getattr(attention, kernel)(query, key, value, documents, **options)
    inputs = [states.detach().float().requires_grad_() for states in (query, key, value)]
    expected = attention._sdpa_per_document(*inputs, documents, **options)
    assert torch.allclose(ours.float(), expected, atol=2e-2)
    probe = torch.randn_like(expected)
    gradients = torch.autograd.grad((ours.float() * probe).sum(), (query, key, value))
    for gradient, wanted in zip(gradients, torch.autograd.grad((expected * probe).sum(), inputs), strict=True):
        assert torch.allclose(gradient.float(), wanted, atol=6e-2)
