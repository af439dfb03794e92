"""Random causal language models of the families that the rollout must know, and what transformers makes of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


def random_model(family: str = "llama", *, vocab_size: int = 64, seed: int = 0, **config) -> PreTrainedModel:
    """Two layers, four heads over two; wide enough initial weights that the next token is not a foregone conclusion."""
    config_class, model_class = FAMILIES[family]
    torch.manual_seed(seed)
    settings = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "initializer_range": 0.25,
        "tie_word_embeddings": False,
        "attn_implementation": "sdpa",
        "eos_token_id": None,
        "bos_token_id": None,
        **config,
    }
    return model_class(config_class(**settings)).eval()


def greedy_reference(
    model: PreTrainedModel, prompt: Sequence[int], max_tokens: int, eos: Sequence[int] = (), **settings
) -> list[int]:
    """What `model.generate` makes of one prompt alone."""
    config = GenerationConfig(
        do_sample=False, max_new_tokens=max_tokens, eos_token_id=list(eos) or None, pad_token_id=0, **settings
    )
    ids = torch.tensor([list(prompt)])
    output = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return output[0, len(prompt) :].tolist()


@torch.no_grad()
def log_probs_reference(
    model: PreTrainedModel, prompt: Sequence[int], response: Sequence[int], temperature: float = 1.0
) -> list[float]:
    """Log-probabilities of a response by one forward pass over the whole sequence, as an actor computes them."""
    logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1].float()
    table = (logits / temperature).log_softmax(-1)
    return table.gather(-1, torch.tensor(list(response)).unsqueeze(-1)).squeeze(-1).tolist()
