"""Tokens per second of three ways to generate responses of mixed lengths with a transformers model.

    python benchmarks/rollout_generator.py --model FOLDER [--dtype bfloat16] [--slots 8] [--requests 32]

`generate`: static batches of `slots` prompts, each as long as its longest response.
`transformers`: transformers' own continuous batching (`paged|sdpa`); it takes as many requests at once as it likes.
`verl_ext`: `verl_ext.rollout.generator`, at most `slots` requests at once.

Every way samples at temperature 1 and makes exactly the same number of tokens; each runs `--repeats` times, in turns.
Random prompts of 32 to 64 tokens share nothing, so that no way gains by sharing.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig, PreTrainedModel

from verl_ext.rollout.generator import Generator
from verl_ext.rollout.sampling import SamplingParams

PAD = 0


def static_generate(model: PreTrainedModel, prompts: list[list[int]], lengths: list[int], slots: int) -> None:
    for start in range(0, len(prompts), slots):
        batch, longest = prompts[start : start + slots], max(lengths[start : start + slots])
        width = max(map(len, batch))
        ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in batch])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
        settings = GenerationConfig(do_sample=True, max_new_tokens=longest, min_new_tokens=longest, pad_token_id=PAD)
        with torch.inference_mode():
            model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)


def transformers_batching(model: PreTrainedModel, prompts: list[list[int]], lengths: list[int], slots: int) -> None:
    settings = GenerationConfig(do_sample=True, max_new_tokens=max(lengths), eos_token_id=-1, pad_token_id=PAD)
    options = ContinuousBatchingConfig(max_batch_tokens=512, num_blocks=256, return_logprobs=True)
    model.set_attn_implementation("paged|sdpa")
    manager = model.init_continuous_batching(generation_config=settings, continuous_batching_config=options)
    manager.start()
    for index, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        manager.add_request(prompt, request_id=str(index), max_new_tokens=length)
    tokens = done = 0
    while done < len(prompts):
        result = manager.get_result(timeout=120)
        if result is not None and result.is_finished():
            done += 1
            tokens += len(result.generated_tokens)
    manager.stop(block=True)
    model.set_attn_implementation("sdpa")
    if tokens != sum(lengths):
        raise RuntimeError(f"{tokens} tokens instead of {sum(lengths)}")


def verl_ext_generator(model: PreTrainedModel, prompts: list[list[int]], lengths: list[int], slots: int) -> None:
    generator = Generator(model, eos_token_ids=[], max_num_seqs=slots)
    for index, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        generator.add_request(str(index), prompt, SamplingParams(max_tokens=length))
    tokens = 0
    while generator.has_unfinished_requests():
        tokens += sum(len(generation.token_ids) for generation in generator.step())
    if tokens != sum(lengths):
        raise RuntimeError(f"{tokens} tokens instead of {sum(lengths)}")


WAYS: dict[str, Callable[[PreTrainedModel, list[list[int]], list[int], int], None]] = {
    "generate": static_generate,
    "transformers": transformers_batching,
    "verl_ext": verl_ext_generator,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="folder or hub id")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--shortest", type=int, default=8, help="response, tokens")
    parser.add_argument("--longest", type=int, default=128, help="response, tokens")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    options = parser.parse_args()

    model = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=getattr(torch, options.dtype), attn_implementation="sdpa"
    ).eval()
    model.generation_config = GenerationConfig()
    numbers = random.Random(0)
    vocab_size = model.config.get_text_config().vocab_size
    prompts = [
        [numbers.randrange(3, vocab_size) for _ in range(numbers.randint(32, 64))] for _ in range(options.requests)
    ]
    lengths = [numbers.randint(options.shortest, options.longest) for _ in range(options.requests)]

    seconds: dict[str, list[float]] = {way: [] for way in options.ways}
    for _ in range(options.repeats):
        for way in options.ways:
            started = time.perf_counter()
            WAYS[way](model, prompts, lengths, options.slots)
            seconds[way].append(time.perf_counter() - started)
    print(
        f"{options.requests} requests, responses of {options.shortest} to {options.longest} tokens, "
        f"{sum(lengths)} in all, {options.slots} slots, {options.dtype}, {torch.get_num_threads()} threads"
    )
    print("| way | tokens per second, median (each run) |")
    print("|---|---|")
    for way, times in seconds.items():
        rates = [sum(lengths) / time_s for time_s in times]
        each = ", ".join(f"{rate:.0f}" for rate in rates)
        print(f"| {way} | {statistics.median(rates):.0f} ({each}) |")


if __name__ == "__main__":
    main()
