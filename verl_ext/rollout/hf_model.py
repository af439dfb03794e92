"""The model and the generator of a server of the engine `hf`."""

from __future__ import annotations

from copy import deepcopy

from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights
from verl.workers.config import HFModelConfig

from verl_ext.model_folder import end_tokens
from verl_ext.rollout.generator import Generator
from verl_ext.rollout.settings import HFSettings


def build_model(model_config: HFModelConfig, settings: HFSettings, *, load_weights: bool) -> PreTrainedModel:
    """The model in the rollout's dtype; without `load_weights` its parameters are memory that nobody has written."""
    # verl's default, flash-attn, has no kernels for a processor.
    common = {
        "config": deepcopy(model_config.hf_config),
        "attn_implementation": "sdpa",
        "dtype": settings.dtype,
        "trust_remote_code": model_config.trust_remote_code,
    }
    if load_weights:
        return AutoModelForCausalLM.from_pretrained(model_config.local_path, **common).eval()
    with no_init_weights():
        return AutoModelForCausalLM.from_config(**common).eval()


def build_generator(
    model: PreTrainedModel, model_config: HFModelConfig, settings: HFSettings, *, seed: int
) -> Generator:
    """The generator of a model, as verl's rollout configuration describes it."""
    rollout = settings.rollout
    return Generator(
        model,
        eos_token_ids=end_tokens(model_config.generation_config, model_config.tokenizer),
        max_num_seqs=rollout.max_num_seqs,
        max_model_len=rollout.max_model_len,
        vocab_size=min(len(model_config.tokenizer), model.config.get_text_config().vocab_size),
        max_num_batched_tokens=rollout.max_num_batched_tokens,
        max_cache_bytes=int(settings.options.kv_cache_gb * 2**30),
        seed=seed,
    )
